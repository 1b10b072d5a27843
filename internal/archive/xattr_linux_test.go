package archive

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListXattrs reads the attributes of a file that has none, an empty one, and
// long ones.
func TestListXattrs(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	none := testing.AllocsPerRun(10, func() {
		if names, values, err := listXattrs(f); err != nil || len(names)+len(values) > 0 {
			t.Errorf("of a new file: %q, %q, %v", names, values, err)
		}
	})
	if none > 3 {
		t.Errorf("%v allocations for a file that has none", none)
	}
	want := map[string]string{"user.empty": "", "user.a": "b\x00c", "user.long": strings.Repeat("x", 2000)}
	for name, value := range want {
		if err := setXattr(f, name, []byte(value)); errors.Is(err, errors.ErrUnsupported) {
			t.Skip("the file system has no attributes")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	names, values, err := listXattrs(f)
	if err != nil || len(names) != len(want) || len(values) != len(want) {
		t.Fatalf("%q, %q, %v", names, values, err)
	}
	for i, name := range names {
		if value, ok := want[name]; !ok || value != string(values[i]) {
			t.Errorf("%s is %q", name, values[i])
		}
	}
}

// TestSizedGrows reads what grows each time, and what grows once.
func TestSizedGrows(t *testing.T) {
	calls := 0
	grows := func(until int) func([]byte) (int, error) {
		calls = 0
		return func(b []byte) (int, error) {
			if calls++; b == nil {
				return 5, nil
			} else if calls < until {
				return -1, unix.ERANGE
			}
			return copy(b, "abc"), nil
		}
	}
	if b, err := sized(grows(4)); err != nil || string(b) != "abc" || calls != 4 {
		t.Errorf("%q, %v after %d calls", b, err, calls)
	}
	if _, err := sized(grows(1 << 20)); !errors.Is(err, unix.ERANGE) || calls > 20 {
		t.Errorf("%v after %d calls, want ERANGE soon", err, calls)
	}
}
