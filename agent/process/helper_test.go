//go:build linux

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// helperEnv names the role that the test binary plays when a test starts it as
// a session's program.
const helperEnv = "PROCESS_TEST_HELPER"

// helper is a spec that runs the test binary in a role.
func helper(t testing.TB, role string, args ...string) *guestv1.SessionSpec {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &guestv1.SessionSpec{
		Args: toBytes(append([]string{exe}, args...)),
		Env:  toBytes([]string{helperEnv + "=" + role}),
	}
}

// again starts the test binary in another role, with the given streams.
func again(role string, attr *syscall.SysProcAttr, out *os.File, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{helperEnv + "=" + role}
	cmd.SysProcAttr = attr
	if out != nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
	return cmd
}

// forever does not return until a signal ends the process.
func forever() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	<-c
}

// runHelper does not return.
func runHelper(name string, args []string) {
	number := func(i int) int {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	switch name {
	case "args":
		// The arguments and the rest of the environment, as Go writes bytes.
		fmt.Printf("%q\n", args)
		for _, e := range os.Environ() {
			if !strings.HasPrefix(e, helperEnv+"=") {
				fmt.Printf("%q\n", e)
			}
		}
	case "stopper": // stops all other processes of its user, again and again
		for first := true; ; first = false {
			_ = unix.Kill(-1, unix.SIGSTOP)
			if first {
				fmt.Println("ready")
			}
		}
	case "stubborn": // neither HUP nor TERM ends it
		signal.Ignore(syscall.SIGHUP, syscall.SIGTERM)
		fmt.Println("ready")
		forever()
	case "forever":
		fmt.Println("ready")
		forever()
	case "hold": // a child in the group keeps the streams
		fmt.Println(again("forever", nil, os.Stdout).Process.Pid)
		os.Exit(5)
	case "hold-stubborn":
		fmt.Println(again("stubborn", nil, os.Stdout).Process.Pid)
		os.Exit(5)
	case "family": // a child has left the group, and the POSIX session
		fmt.Println(again("forever", &syscall.SysProcAttr{Setsid: true}, nil).Process.Pid)
		forever()
	case "daemon": // a child leaves the group, and has no stream of ours
		fmt.Println(again("forever", &syscall.SysProcAttr{Setsid: true}, nil).Process.Pid)
	case "double-fork": // a grandchild has
		again("daemon", nil, os.Stdout).Wait()
	case "close-stdio": // its streams end long before it does
		for fd := range 3 {
			syscall.Close(fd)
		}
		forever()
	case "endless":
		buf := make([]byte, 32<<10)
		for {
			if _, err := os.Stdout.Write(buf); err != nil {
				os.Exit(1)
			}
		}
	case "write": // so many bytes of each true stream, stdout and stderr in turn
		for off := 0; off < number(0); {
			n := min(number(1), number(0)-off)
			os.Stdout.Write(trueBytes(stdout, uint64(off), n))
			os.Stderr.Write(trueBytes(stderr, uint64(off), n))
			off += n
		}
	case "write-exit": // nobody has to read for it to end
		os.Stdout.Write(trueBytes(stdout, 0, number(0)))
		os.Exit(3)
	case "count": // how much stdin there is, and whether it is the true one
		data, err := io.ReadAll(os.Stdin)
		fmt.Println(len(data), string(data) == string(trueBytes(7, 0, len(data))), err)
	case "winsize": // the terminal's size, now and whenever it changes
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		for {
			size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			if err != nil {
				panic(err)
			}
			fmt.Println(size.Row, size.Col)
			<-c
		}
	case "hog":
		hog(number(0))
	case "bomb":
		bomb()
	case "deaf": // has stdin, and does not read it
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				break
			}
		}
		fmt.Println("ready")
		forever()
	case "shut": // has closed stdin
		os.Stdin.Close()
		fmt.Println("ready")
		forever()
	default:
		fmt.Fprintf(os.Stderr, "no helper %q\n", name)
		os.Exit(99)
	}
	os.Exit(0)
}

func toBytes(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}
