#include "workload.h"
#include <sys/ioctl.h>
#include <termios.h>

struct pty {
    int master, slave;
    char name[64];
};

static struct pty open_pty(void) {
    struct pty pty;
    pty.master = must(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    must(grantpt(pty.master));
    must(unlockpt(pty.master));
    must0(ptsname_r(pty.master, pty.name, sizeof pty.name));
    pty.slave = must(open(pty.name, O_RDWR | O_NOCTTY));
    return pty;
}

static void check_terminal(int fd, const struct termios *termios, const struct winsize *size) {
    struct termios is;
    struct winsize now_size;
    must(tcgetattr(fd, &is));
    check_equal(is.c_iflag, termios->c_iflag, "c_iflag"); check_equal(is.c_oflag, termios->c_oflag, "c_oflag");
    check_equal(is.c_cflag, termios->c_cflag, "c_cflag"); check_equal(is.c_lflag, termios->c_lflag, "c_lflag");
    check(memcmp(is.c_cc, termios->c_cc, sizeof is.c_cc) == 0, "control characters changed");
    must(ioctl(fd, TIOCGWINSZ, &now_size));
    check_equal(now_size.ws_row, size->ws_row, "rows"); check_equal(now_size.ws_col, size->ws_col, "columns");
}

WORKLOAD(ptys, "pseudoterminals: number, termios, window size, unread input and output, packet, exclusive, locked, hung up") {
    struct pty raw = open_pty(), cooked = open_pty(), packet = open_pty(), exclusive = open_pty(), hung = open_pty();
    struct termios raw_termios, cooked_termios;
    struct winsize raw_size = {33, 99, 5, 6}, cooked_size = {24, 80, 0, 0};
    must(tcgetattr(raw.slave, &raw_termios));
    cooked_termios = raw_termios;
    cfmakeraw(&raw_termios);
    raw_termios.c_cc[VMIN] = 3, raw_termios.c_cc[VTIME] = 2;
    cooked_termios.c_cc[VINTR] = 'q', cooked_termios.c_lflag &= ~ECHO;
    must(tcsetattr(raw.slave, TCSANOW, &raw_termios));
    must(tcsetattr(cooked.slave, TCSANOW, &cooked_termios));
    must(ioctl(raw.master, TIOCSWINSZ, &raw_size));
    must(ioctl(cooked.master, TIOCSWINSZ, &cooked_size));
    must(write(raw.master, "typed", 5));    // unread input
    must(write(raw.slave, "shown", 5));     // unread output
    must(write(cooked.master, "line\nrest", 9));
    int on = 1, locked = must(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    must(ioctl(packet.master, TIOCPKT, &on));
    must(ioctl(exclusive.slave, TIOCEXCL));
    close(hung.slave);
    hung.slave = must(open(hung.name, O_RDWR | O_NOCTTY));
    close(hung.master);
    struct stat before, after;
    must(fstat(raw.slave, &before));
    pause_ms(20);
    ready();
    must(fstat(raw.slave, &after));
    check_equal(after.st_rdev, before.st_rdev, "device number of the slave");
    char name[64], text[64] = {0};
    must0(ptsname_r(raw.master, name, sizeof name));
    check(strcmp(name, raw.name) == 0, "the slave is %s, was %s", name, raw.name);
    check_terminal(raw.slave, &raw_termios, &raw_size);
    check_terminal(cooked.slave, &cooked_termios, &cooked_size);
    int waiting;
    must(ioctl(packet.master, TIOCGPKT, &waiting));
    check_equal(waiting, 1, "packet mode");
    must(ioctl(exclusive.slave, TIOCGEXCL, &waiting));
    check_equal(waiting, 1, "exclusive mode");
    must(ioctl(locked, TIOCGPTLCK, &waiting));
    check_equal(waiting, 1, "lock of a new pty");
    must(ioctl(raw.master, TIOCGPTLCK, &waiting));
    check_equal(waiting, 0, "lock of a pty in use");
    check(tcgetattr(hung.slave, &raw_termios) == -1 && errno == EIO, "the hung-up terminal works: %s", strerror(errno));
    check_equal(must(read(raw.slave, text, sizeof text)), 5, "bytes of unread input");
    check(strcmp(text, "typed") == 0, "unread input is '%s'", text);
    memset(text, 0, sizeof text);
    check_equal(must(read(raw.master, text, sizeof text)), 5, "bytes of unread output");
    check(strcmp(text, "shown") == 0, "unread output is '%s'", text);
    must(write(cooked.master, "!\n", 2));
    memset(text, 0, sizeof text);
    must(read(cooked.slave, text, sizeof text));
    check(strcmp(text, "line\n") == 0, "first line is '%s'", text);
    memset(text, 0, sizeof text);
    must(read(cooked.slave, text, sizeof text));
    check(strcmp(text, "rest!\n") == 0, "second line is '%s'", text);
}

static struct pty terminal;
static volatile sig_atomic_t interrupts;
static void on_interrupt(int number) { (void)number, interrupts++; }

static void job(void *unused __attribute__((unused))) {
    must(setpgid(0, 0));
    settle();
    await_go();
    check_equal(must(tcgetpgrp(terminal.slave)), getpgrp(), "foreground group");
}

static void terminal_session(void *unused __attribute__((unused))) {
    must(setsid());
    must(ioctl(terminal.slave, TIOCSCTTY, 0));
    close(terminal.master);
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    must(sigaction(SIGHUP, &action, NULL));
    pid_t child = fork_child(job, NULL);
    await_settled(1);
    signal(SIGTTOU, SIG_IGN);
    must(tcsetpgrp(terminal.slave, child));
    int device = must(open("/dev/tty", O_RDWR));
    settle();
    await_go();
    check_equal(must(tcgetsid(terminal.slave)), getpid(), "session of the terminal");
    check_equal(must(tcgetpgrp(device)), child, "foreground group by /dev/tty");
    reap(child);
    must(tcsetpgrp(terminal.slave, getpgrp()));
    check_equal(must(write(device, "x", 1)), 1, "bytes written to /dev/tty");
    check_equal(interrupts, 0, "hang-ups");
}

WORKLOAD(controlling_tty, "a session with a controlling terminal, its foreground group, /dev/tty; master in the parent") {
    terminal = open_pty();
    pid_t leader = fork_child(terminal_session, NULL);
    close(terminal.slave);
    await_settled(2);
    ready();
    char text[8] = {0};
    check_equal(must(read(terminal.master, text, sizeof text)), 1, "bytes from the session");
    reap(leader);
    check(read(terminal.master, text, sizeof text) == -1 && errno == EIO, "somebody still holds the slave");
}
