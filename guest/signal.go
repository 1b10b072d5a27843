package guest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Signal is a signal by its number in a Linux guest, whatever system this
// program runs on. It is an os.Signal.
type Signal uint32

var _ os.Signal = Signal(0)

// signals holds Linux's signals by number (signal(7), x86 and ARM), with the
// texts of strsignal(3) as package syscall has them.
var signals = [...]struct{ name, text string }{
	1: {"HUP", "hangup"}, 2: {"INT", "interrupt"}, 3: {"QUIT", "quit"},
	4: {"ILL", "illegal instruction"}, 5: {"TRAP", "trace/breakpoint trap"},
	6: {"ABRT", "aborted"}, 7: {"BUS", "bus error"},
	8: {"FPE", "floating point exception"}, 9: {"KILL", "killed"},
	10: {"USR1", "user defined signal 1"}, 11: {"SEGV", "segmentation fault"},
	12: {"USR2", "user defined signal 2"}, 13: {"PIPE", "broken pipe"},
	14: {"ALRM", "alarm clock"}, 15: {"TERM", "terminated"},
	16: {"STKFLT", "stack fault"}, 17: {"CHLD", "child exited"},
	18: {"CONT", "continued"}, 19: {"STOP", "stopped (signal)"},
	20: {"TSTP", "stopped"}, 21: {"TTIN", "stopped (tty input)"},
	22: {"TTOU", "stopped (tty output)"}, 23: {"URG", "urgent I/O condition"},
	24: {"XCPU", "CPU time limit exceeded"}, 25: {"XFSZ", "file size limit exceeded"},
	26: {"VTALRM", "virtual timer expired"}, 27: {"PROF", "profiling timer expired"},
	28: {"WINCH", "window changed"}, 29: {"IO", "I/O possible"},
	30: {"PWR", "power failure"}, 31: {"SYS", "bad system call"},
}

// maxSignal is Linux's SIGRTMAX.
const maxSignal = 64

// ParseSignal parses a signal's name, with or without SIG and in any case, or
// its number from 0 to 64. Real-time signals are RTMIN (34) and RTMIN+N.
func ParseSignal(s string) (Signal, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		if n > maxSignal {
			return 0, fmt.Errorf("signal %d is out of range: the largest is %d", n, maxSignal)
		}
		return Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for n, known := range signals {
		if known.name != "" && known.name == name {
			return Signal(n), nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		if rest == "" {
			return 34, nil
		}
		if n, err := strconv.ParseUint(strings.TrimPrefix(rest, "+"), 10, 8); err == nil && rest[0] == '+' && n <= maxSignal-34 {
			return Signal(34 + n), nil
		}
	}
	return 0, fmt.Errorf("no signal is called %q", s)
}

// SignalNames returns the names of the signals that have one, by number and
// without SIG.
func SignalNames() []string {
	names := make([]string, 0, len(signals))
	for _, known := range signals {
		if known.name != "" {
			names = append(names, known.name)
		}
	}
	return names
}

// Name returns the signal's name, such as "SIGTERM", or "signal 40" if it has
// none.
func (s Signal) Name() string {
	if int(s) < len(signals) && signals[s].name != "" {
		return "SIG" + signals[s].name
	}
	return s.String()
}

// String returns what syscall.Signal's String returns on Linux, such as
// "terminated".
func (s Signal) String() string {
	if int(s) < len(signals) && signals[s].text != "" {
		return signals[s].text
	}
	return "signal " + strconv.FormatUint(uint64(s), 10)
}

// Signal makes s an os.Signal.
func (s Signal) Signal() {}

// guestSignal returns the number that sig has in a Linux guest.
func guestSignal(sig os.Signal) (Signal, error) {
	switch sig := sig.(type) {
	case Signal:
		if sig > maxSignal {
			return 0, fmt.Errorf("signal %d is out of range: the largest is %d", sig, maxSignal)
		}
		return sig, nil
	case syscall.Signal:
		n := Signal(sig)
		if sig < 0 || n > maxSignal {
			return 0, fmt.Errorf("signal %d is out of range: the largest is %d", sig, maxSignal)
		}
		if runtime.GOOS == "linux" {
			return n, nil
		}
		// The numbers that all Unix systems and package syscall on Windows share.
		switch n {
		case 0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 14, 15:
			return n, nil
		}
		return 0, fmt.Errorf("signal %v has another number in the guest: use guest.ParseSignal", sig)
	}
	return 0, fmt.Errorf("signal %v has no number", sig)
}
