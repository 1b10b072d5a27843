package archive

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestNamesThatFold: names that differ in their case are two files, unless the
// receiver's file systems take them for one: the second is refused then.
func TestNamesThatFold(t *testing.T) {
	sum := sha256.Sum256(nil)
	for _, folds := range []bool{false, true} {
		dst := t.TempDir()
		var failures []*Failure
		tr := newTry(t, &ReceiveConfig{Destination: dst, Names: []string{""}, Options: noSync(), FoldNames: folds, OnDone: func(d Done) {
			if d.Failure != nil {
				failures = append(failures, d.Failure)
			}
		}})
		for _, name := range []string{"README", "other", "readme"} {
			if err := tr.h.entry(&guestv1.Entry{Path: []byte(name), Mode: modeRegular | 0o644, Sha256: sum[:]}); err != nil {
				t.Fatalf("%v: %v", err, tr.wait(t))
			}
		}
		must(t, tr.h.finish(), tr.wait(t))
		if folds != (len(failures) == 1 && failures[0].Reason == ReasonCollision) || !folds && len(failures) > 0 {
			t.Errorf("folds %v: failures %v", folds, failures)
		}
		_, err := os.Lstat(filepath.Join(dst, "readme"))
		if made := err == nil; made == folds {
			t.Errorf("folds %v: readme: %v", folds, err)
		}
		_, first := os.Lstat(filepath.Join(dst, "README"))
		_, last := os.Lstat(filepath.Join(dst, "other"))
		must(t, first, last)
	}
}
