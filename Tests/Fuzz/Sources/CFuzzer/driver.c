#include "fuzzer.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* SwiftPM calls the main of an executable so; -sanitize=fuzzer leaves the one Swift would make out. */
int fuzz_images_main(int argc, char **argv) { return LLVMFuzzerRunDriver(&argc, &argv, LLVMFuzzerTestOneInput); }
int fuzz_answers_main(int argc, char **argv) { return LLVMFuzzerRunDriver(&argc, &argv, LLVMFuzzerTestOneInput); }
