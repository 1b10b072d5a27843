package launch

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	if f := Failed(); f != nil {
		os.Stdout.WriteString(f.Stage + " " + f.Path + " " + strconv.Itoa(int(f.Errno)))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestOrder(t *testing.T) {
	nice := -20
	o := Order{
		Paths: []string{"/bin/a b", ""}, Name: "a\n", Search: ":", Argv: []string{"", "x\xff"}, Env: []string{"A=1 2"}, Dir: "/ ", Home: true,
		Switch: true, UID: 1<<32 - 2, GID: 7, Groups: []uint32{1, 2},
		Rlimits: []Rlimit{{"core", 4, 1<<64 - 1, 1<<64 - 1}}, Nice: &nice, Umask: 0o777, NoNewPrivs: true, Capabilities: []int{0, 40},
	}
	for _, want := range []Order{o, {Paths: []string{}, Argv: []string{}, Env: []string{}}} {
		got, ok := decode(want.Encode())
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%v (-want +got):\n%s", ok, diff)
		}
		text := want.Encode()
		for n := range text {
			if _, ok := decode(text[:n]); ok {
				t.Errorf("%d bytes of %d are an order", n, len(text))
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&Order{Paths: []string{"a"}, Groups: []uint32{1}}).Encode())
	f.Add([]byte("18446744073709551615 "))
	f.Fuzz(func(_ *testing.T, text []byte) { decode(text) })
}

// launch runs the test binary as a launcher and returns what it or its program
// prints.
func launch(t *testing.T, text []byte) string {
	t.Helper()
	orders, err := os.CreateTemp(t.TempDir(), "order")
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	if _, err := orders.Write(text); err != nil {
		t.Fatal(err)
	}
	extra, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{Name}
	// The second is in the place of the report, the third is one that nobody expects.
	cmd.ExtraFiles = []*os.File{orders, extra, extra}
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestRun: a launcher becomes its program, which has three descriptors, or says
// what was wrong.
func TestRun(t *testing.T) {
	umask := 0o077
	tests := map[string]struct {
		order Order
		want  string
	}{
		// 3 is the directory that the shell reads.
		"a program": {Order{Paths: []string{"/bin/sh"}, Argv: []string{"x", "-c", "echo $0 $A; pwd; umask; cd /proc/self/fd && echo [0-9]*"}, Env: []string{"A=b"}, Dir: "/tmp", Umask: umask},
			"x b\n/tmp\n0077\n0 1 2 3\n"},
		"a program of PATH": {Order{Paths: []string{"/none/sh", "/tmp/sh", "/bin/sh"}, Name: "sh", Argv: []string{"sh", "-c", "pwd"}, Dir: "/none", Home: true}, "/\n"},
		"no program":        {Order{Paths: []string{"/none/x", "/etc/passwd", "/x"}, Name: "x", Argv: []string{"x"}, Dir: "/"}, "lookup /etc/passwd " + strconv.Itoa(int(syscall.ENOENT))},
		"no file":           {Order{Paths: []string{"/none/x"}, Argv: []string{"x"}, Dir: "/"}, "exec /none/x " + strconv.Itoa(int(syscall.ENOENT))},
		"no directory":      {Order{Paths: []string{"/bin/sh"}, Argv: []string{"x"}, Dir: "/none"}, "chdir /none " + strconv.Itoa(int(syscall.ENOENT))},
		"a limit":           {Order{Rlimits: []Rlimit{{"x", 1000, 1, 1}}}, "setrlimit x " + strconv.Itoa(int(syscall.EINVAL))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := launch(t, tt.order.Encode()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	if got := launch(t, []byte("nonsense")); !strings.HasPrefix(got, "launch ") {
		t.Errorf("nonsense: %q", got)
	}
}

// TestRunAsUser: the ids are the user's, and what has become the user's is root's
// to look at.
func TestRunAsUser(t *testing.T) {
	o := Order{Paths: []string{"/none"}, Argv: []string{"x"}, Dir: "/", Switch: true, UID: 54321, GID: 54322, Groups: []uint32{54323}}
	want := "exec /none " + strconv.Itoa(int(syscall.ENOENT))
	if os.Geteuid() != 0 {
		want = "switch-user  " + strconv.Itoa(int(syscall.EPERM))
	}
	if got := launch(t, o.Encode()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if os.Geteuid() == 0 {
		o.Paths, o.Argv = []string{"/bin/sh"}, []string{"sh", "-c", "id -u; id -g; id -G"}
		if got := launch(t, o.Encode()); got != "54321\n54322\n54322 54323\n" {
			t.Errorf("%q", got)
		}
	}
}

// TestSignals: what a launcher was started ignoring and blocking is not its program's.
func TestSignals(t *testing.T) {
	orders, err := os.CreateTemp(t.TempDir(), "order")
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	o := Order{Paths: []string{"/bin/grep"}, Argv: []string{"grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"}, Dir: "/"}
	if _, err := orders.Write(o.Encode()); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "env", "--ignore-signal=TSTP,HUP,PIPE", "--block-signal=USR1", "bash", "-c", `exec -a "$0" "$1"`, Name, exe)
	cmd.ExtraFiles = []*os.File{orders, orders}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Sig") {
		t.Skipf("no env that ignores signals, or no bash: %v, %s", err, out)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		name, mask, ok := strings.Cut(strings.TrimSpace(line), ":\t")
		bits, err := strconv.ParseUint(mask, 16, 64)
		if !ok || err != nil {
			t.Fatalf("the line %q", line)
		}
		// 32 and 33 are the C library's own: what its posix_spawn has started, make
		// for one, has them ignored.
		if bits &^= 3 << 31; bits != 0 {
			t.Errorf("%s of the program is %#x", name, bits)
		}
		n++
	}
	if n != 2 {
		t.Errorf("the program printed %q", out)
	}
}
