#include "clinux_getopt.h"

void clinux_getopt_begin(void) {
    optind = 0;
    opterr = 0;
}

struct clinux_getopt_step clinux_getopt_next(
    int argc, char *const *argv, const char *short_options, const struct option *long_options) {
    struct clinux_getopt_step step;
    step.result = getopt_long(argc, argv, short_options, long_options, 0);
    step.at = optopt;
    step.next = optind;
    step.argument = optarg;
    return step;
}

extern char **environ;

char **clinux_environment(void) { return environ; }
