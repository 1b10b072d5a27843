//go:build linux

package process

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTakeLocale: a session gets the client's locale if the guest has it, from a
// directory or from the archive.
func TestTakeLocale(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "C.utf8", "LC_MESSAGES"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := "de_DE.utf8\x00C\x00sr_RS.utf8@latin\x00"
	var archive bytes.Buffer
	if err := binary.Write(&archive, binary.NativeEndian, []uint32{archiveMagic, 1, 0, 0, 0, 40, uint32(len(names)), 4096, 0, 0}); err != nil {
		t.Fatal(err)
	}
	archive.WriteString(names)
	if err := os.WriteFile(filepath.Join(dir, "locale-archive"), archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got := takeLocale(dir, args("LANG=de_DE.UTF-8", "LC_ALL=C.UTF-8", "LC_TIME=sr_RS.UTF-8@latin", "LC_CTYPE=C", "LC_NUMERIC=fr_FR.UTF-8",
		"LANG=", "LC_X=../../tmp", "LC_Y=/tmp/x", "LC_Z=de_DE", "PATH=C", "LANGUAGE=C", "LANG"))
	if diff := cmp.Diff([]string{"LANG=de_DE.UTF-8", "LC_ALL=C.UTF-8", "LC_TIME=sr_RS.UTF-8@latin", "LC_CTYPE=C"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLocale: what the caller sets by itself wins.
func TestLocale(t *testing.T) {
	c := newCarrier(t, nil)
	spec := shell("echo $LANG $LC_ALL $LC_TIME")
	spec.Locale, spec.Env = args("LANG=C", "LC_ALL=xx_XX", "LC_TIME=POSIX"), args("LC_TIME=mine")
	s, err := c.run(testContext(t), spec, "")
	if err != nil || string(s.out[stdout]) != "C mine\n" {
		t.Errorf("%v, %q", err, s.out[stdout])
	}
	spec.Locale = make([][]byte, maxLocale+1)
	if _, err := c.run(testContext(t), spec, ""); reasonOf(err) != reasonArgsTooLong {
		t.Errorf("a locale of %d variables: %v", maxLocale+1, err)
	}
}
