package main

import (
	"io/fs"
	"slices"
	"testing"
)

func TestFileArgs(t *testing.T) {
	for name, tt := range map[string]struct {
		args   []string
		target string
		paths  []string // nil: refused
	}{
		"apart":        {[]string{"web", "/a", "b"}, "web", []string{"/a", "b"}},
		"together":     {[]string{"web:/a", "web:b"}, "web", []string{"/a", "b"}},
		"the home":     {[]string{"web:"}, "web", []string{"."}},
		"an address":   {[]string{"unix:/run/x", "/a"}, "unix:/run/x", []string{"/a"}},
		"two guests":   {[]string{"web:/a", "db:/a"}, "", nil},
		"half of each": {[]string{"web:/a", "/b"}, "", nil},
		"none":         {[]string{"web"}, "", nil},
	} {
		target, paths, err := fileArgs(tt.args, 1, -1)
		if (err == nil) != (tt.paths != nil) || target != tt.target || !slices.Equal(paths, tt.paths) {
			t.Errorf("%s: %q %q, %v, want %q %q", name, target, paths, err, tt.target, tt.paths)
		}
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{
		0o644: "-rw-r--r--", fs.ModeDir | fs.ModeSticky | 0o777: "drwxrwxrwt", fs.ModeSymlink | 0o777: "lrwxrwxrwx",
		fs.ModeSetuid | 0o755: "-rwsr-xr-x", fs.ModeSetgid | 0o644: "-rw-r-Sr--", fs.ModeDir | fs.ModeSticky: "d--------T",
		fs.ModeDevice | fs.ModeCharDevice | 0o666: "crw-rw-rw-", fs.ModeDevice | 0o660: "brw-rw----", fs.ModeNamedPipe | 0o600: "prw-------", fs.ModeSocket: "s---------",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%v: %s, want %s", mode, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{"1": 1, "500K": 500 << 10, "10m": 10 << 20, "2G": 2 << 30, "": 0, "x": 0, "K": 0, "99999999999G": 0, "-1": 0} {
		if got, err := parseSize(s); got != want && err == nil || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
}
