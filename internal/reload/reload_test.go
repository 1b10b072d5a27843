package reload

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// parseWord refuses "broken".
func parseWord(data []byte) (string, error) {
	if string(data) == "broken" {
		return "", errors.New("does not parse")
	}
	return string(data), nil
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	reports := 0
	f := New(path, parseWord, func(error) { reports++ })
	mode := os.FileMode(0o644)
	write := func(s string) func() {
		return func() {
			os.Remove(path)
			if err := os.WriteFile(path, []byte(s), mode); err != nil {
				t.Fatal(err)
			}
			os.Chmod(path, mode)
		}
	}
	steps := []struct {
		name  string
		do    func()
		value string
		have  bool
		ok    bool
	}{
		{"absent", func() {}, "", false, true},
		{"broken from the start", write("broken"), "", false, false},
		{"whole", write("one"), "one", true, true},
		{"unchanged", func() {}, "one", true, true},
		{"broken", write("broken"), "one", true, false},
		{"whole again", write("two"), "two", true, true},
		{"gone", func() { os.Remove(path) }, "two", true, false},
		{"back", write("three"), "three", true, true},
		{"others may write it", func() { os.Chmod(path, 0o666); os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)) }, "three", true, false},
		{"mended", write("four"), "four", true, true},
		{"a directory", func() { os.Remove(path); os.Mkdir(path, 0o755) }, "four", true, false},
	}
	for _, s := range steps {
		s.do()
		f.checked.Store(0)
		value, have, err := f.Get()
		if value != s.value || have != s.have || (err == nil) != s.ok {
			t.Errorf("%s: %q, %t, %v; want %q, %t, ok %t", s.name, value, have, err, s.value, s.have, s.ok)
		}
	}
	if reports != len(steps)-2 {
		t.Errorf("%d reports, want one for each change", reports)
	}
}

// TestReportsFirstFile: a file that comes while the program runs is reported, one
// that was there from the start is not.
func TestReportsFirstFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var reports []error
	report := func(err error) { reports = append(reports, err) }
	f := New(path, parseWord, report)
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Refresh()
	if len(reports) != 1 || reports[0] != nil {
		t.Errorf("reports of a new file: %v", reports)
	}
	New(path, parseWord, report)
	if len(reports) != 1 {
		t.Errorf("reports of a file that was there: %v", reports)
	}
}

// TestInterval: a file is not looked at with every call.
func TestInterval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := New(path, parseWord, nil)
	os.WriteFile(path, []byte("one"), 0o600)
	f.checked.Store(time.Now().Add(time.Hour).UnixNano() - int64(time.Hour) + int64(time.Minute))
	// The last look was "in the future": the clock was set back, so it looks.
	if _, have, _ := f.Get(); !have {
		t.Error("not looked at after the clock was set back")
	}
	os.Remove(path)
	if _, _, err := f.Get(); err != nil {
		t.Error("looked at twice within the interval")
	}
	f.Refresh()
	if _, _, err := f.Get(); err == nil {
		t.Error("Refresh did not look")
	}
}
