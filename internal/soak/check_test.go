//go:build linux

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChecksFind shows that each check finds what it is for.
func TestChecksFind(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outcome outcome
		times   int
		want    string
	}{
		{"done", done, 1, ""},
		{"lost", done, 0, "is lost"},
		{"repeated", done, 2, "was done 2 times"},
		{"refused", refused, 0, ""},
		{"refused and done", refused, 1, ""},
		{"refused and repeated", refused, 2, "was done 2 times"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			s := &soak{opts: options{out: &out}}
			s.count(&client{}, "exec x", tt.outcome, tt.times)
			if got := out.String(); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("printed %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHalfFileIsFound(t *testing.T) {
	dir := t.TempDir()
	c := &client{s: &soak{opts: options{seed: 1}}}
	f := copied{from: filepath.Join(dir, "from"), to: filepath.Join(dir, "to")}
	sum, err := f.begin(c.operation(0, nil))
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("cut")
	if err := f.end(sum, failed); !errors.Is(err, failed) {
		t.Errorf("no file after a copy that failed: %v", err)
	}
	data, err := os.ReadFile(f.from)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := os.WriteFile(f.to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(data[:len(data)/2])
	if _, is := errors.AsType[broken](f.end(sum, failed)); !is {
		t.Error("half a file after a copy that failed is not found")
	}
	write(data)
	if err := f.end(sum, nil); err != nil {
		t.Errorf("the whole file: %v", err)
	}
	if err := os.Remove(f.to); err != nil {
		t.Fatal(err)
	}
	if _, is := errors.AsType[broken](f.check()); !is {
		t.Error("a file that was there and is gone is not found")
	}
	if _, err := os.Stat(f.to); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestOutput shows which output may come with which error.
func TestOutput(t *testing.T) {
	failed := errors.New("cut")
	for _, tt := range []struct {
		got    string
		err    error
		broken bool
	}{
		{"abc", nil, false},
		{"ab", nil, true},
		{"ab", failed, false},
		{"abcabc", failed, true},
		{"b", failed, true},
	} {
		_, is := errors.AsType[broken](sameOutput(tt.err, []byte(tt.got), []byte("abc")))
		if is != tt.broken {
			t.Errorf("output %q with error %v: broken %v, want %v", tt.got, tt.err, is, tt.broken)
		}
	}
}
