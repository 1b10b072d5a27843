package archive

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
