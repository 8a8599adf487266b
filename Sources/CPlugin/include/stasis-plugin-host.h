/// The process that a C plugin lives in; its story is in docs/design/plugins.md. Conductor and host speak over a SOCK_SEQPACKET pair.
#pragma once
#include "stasis-plugin.h"

/// A message: six words, then texts, each with its NUL, `texts` bytes in all. One descriptor may come with it (SCM_RIGHTS).
struct stasis_plugin_message {
    int64_t kind;
    /// Of a request: numbers for the hook. Of an answer: what it returned, then what it wrote through its pointers.
    int64_t numbers[4];
    int64_t texts;
};
enum { STASIS_PLUGIN_TEXT_ROOM = 32768 };

/// Kinds of requests; smaller ones are hooks (enum stasis_plugin_hook).
enum {
    /// numbers: log level, whether the inventory has a list, whether it is a restore; texts: path, names in the list; descriptor: image directory.
    STASIS_PLUGIN_LOAD = 100,
    STASIS_PLUGIN_BEGIN,  // numbers: stage
    STASIS_PLUGIN_END,    // numbers: stage, result
};
/// Kinds of answers. Of each request one ANSWER is the last.
enum {
    STASIS_PLUGIN_ANSWER,
    STASIS_PLUGIN_LOG,    // numbers: level; text
    STASIS_PLUGIN_ADD,    // text: a name for the inventory
    STASIS_PLUGIN_ASKED,  // numbers: whether the name is in the inventory; text: the name
};

/// Serves until the other end of `socket` is closed. Answers the exit status.
int stasis_plugin_host(int socket);
