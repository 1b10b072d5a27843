package reload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// parseWord refuses "broken".
func parseWord(data []byte) (string, error) {
	if string(data) == "broken" {
		return "", errors.New("does not parse")
	}
	return string(data), nil
}

// put replaces a file by one with another inode.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	for _, keep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			reports := 0
			f := New(Config[string]{Path: path, Parse: parseWord, Report: func(error) { reports++ }, Keep: keep})
			put := func(s string) func() {
				return func() {
					os.Remove(path)
					put(t, path, s)
				}
			}
			// What is in force once the file has gone.
			kept := func(s string) string {
				if keep {
					return s
				}
				return ""
			}
			steps := []struct {
				name  string
				do    func()
				value string
				have  bool
				ok    bool
			}{
				{"absent", func() {}, "", false, true},
				{"broken from the start", put("broken"), "", false, false},
				{"gone before it was whole", func() { os.Remove(path) }, "", false, !keep},
				{"whole", put("one"), "one", true, true},
				{"unchanged", func() {}, "one", true, true},
				{"broken", put("broken"), "one", true, false},
				{"whole again", put("two"), "two", true, true},
				{"gone", func() { os.Remove(path) }, kept("two"), keep, !keep},
				{"back", put("three"), "three", true, true},
				{"others may write it", func() { os.Chmod(path, 0o666) }, "three", true, false},
				{"mended", func() { os.Chmod(path, 0o644) }, "three", true, true},
				{"a directory", func() { os.Remove(path); os.Mkdir(path, 0o755) }, "three", true, false},
				{"gone while broken", func() { os.Remove(path) }, kept("three"), keep, !keep},
			}
			for _, s := range steps {
				before := f.Version()
				s.do()
				for range 2 { // to be gone takes two looks
					time.Sleep(Interval)
					f.Get()
				}
				value, have, err := f.Get()
				if value != s.value || have != s.have || (err == nil) != s.ok {
					t.Errorf("keep %t, %s: %q, %t, %v; want %q, %t, ok %t", keep, s.name, value, have, err, s.value, s.have, s.ok)
				}
				if still := s.name == "absent" || s.name == "unchanged"; (f.Version() == before) != still {
					t.Errorf("keep %t, %s: version %d after %d", keep, s.name, f.Version(), before)
				}
			}
			if reports != len(steps)-2 {
				t.Errorf("keep %t: %d reports, want one for each change", keep, reports)
			}
		})
	}
}

// TestGoneForAMoment: a file that an editor takes away for a moment is not gone.
func TestGoneForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f")
		put(t, path, "one")
		f := New(Config[string]{Path: path, Parse: parseWord})
		for range 10 {
			os.Rename(path, path+"~")
			f.Look()
			time.Sleep(Interval / 4)
			f.Look()
			if value, _, _ := f.Get(); value != "one" {
				t.Fatalf("%q is in force while the file is away for a moment", value)
			}
			os.Rename(path+"~", path)
			f.Look()
			time.Sleep(Interval)
		}
	})
}

// TestDirectoryForAll: a file that is absent where anybody may remove it is broken.
func TestDirectoryForAll(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, have, err := New(Config[string]{Path: filepath.Join(dir, "f"), Parse: parseWord}).Get(); have || err == nil {
		t.Errorf("%t, %v", have, err)
	}
}

// TestSecret: a file that others may read is no secret.
func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	put(t, path, "one")
	if _, have, err := New(Config[string]{Path: path, Parse: parseWord, Secret: true}).Get(); have || err == nil {
		t.Errorf("%t, %v", have, err)
	}
}

// TestReportsFirstFile: a file that comes while the program runs is reported, one
// that was there from the start is not, and one that goes is.
func TestReportsFirstFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var reports []error
	cfg := Config[string]{Path: path, Parse: parseWord, Report: func(err error) { reports = append(reports, err) }, Interval: 1}
	f := New(cfg)
	put(t, path, "one")
	f.Look()
	if len(reports) != 1 || reports[0] != nil {
		t.Errorf("reports of a new file: %v", reports)
	}
	New(cfg)
	if len(reports) != 1 {
		t.Errorf("reports of a file that was there: %v", reports)
	}
	os.Remove(path)
	f.Look()
	if f.Look(); len(reports) != 2 || !errors.Is(reports[1], fs.ErrNotExist) {
		t.Errorf("reports of a file that has gone: %v", reports)
	}
}

// TestInterval: a file is not looked at with every call.
func TestInterval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := New(Config[string]{Path: path, Parse: parseWord, Interval: time.Hour})
	put(t, path, "one")
	f.checked.Store(time.Now().Add(time.Minute).UnixNano())
	// The last look was "in the future": the clock was set back, so it looks.
	if _, have, _ := f.Get(); !have {
		t.Error("not looked at after the clock was set back")
	}
	put(t, path, "two")
	if value, _, _ := f.Get(); value != "one" {
		t.Error("looked at twice within the interval")
	}
	f.Look()
	if value, _, _ := f.Get(); value != "two" {
		t.Error("Look did not look")
	}
}
