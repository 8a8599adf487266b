#pragma once
#include <getopt.h>

/// One answer of getopt_long(3).
struct clinux_getopt_step {
    int result;           ///< a short option's character, a long option's `val`, '?', ':' or -1 at the end
    int at;               ///< optopt: the option character (or `val`) an error is about
    int next;             ///< optind: index of the next word to look at; at the end, of the first that is no option
    const char *argument; ///< optarg
};

/// Makes the next step start with `argv[1]` (glibc: optind = 0) and keeps getopt from printing by itself.
void clinux_getopt_begin(void);

/// The next option. getopt's state is global: one reader at a time.
struct clinux_getopt_step clinux_getopt_next(
    int argc, char *const *argv, const char *short_options, const struct option *long_options);

/// environ(7), which Swift 6 can't read as a variable.
char **clinux_environment(void);
