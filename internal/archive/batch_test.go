package archive

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
)

// TestSlowSyncIsWaitedFor: a receiver that may get no more entries before it
// acknowledges those that wait for a sync does not ask for more.
func TestSlowSyncIsWaitedFor(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, tt := range []struct {
		number uint64
		waits  bool
	}{{2 * batchSpan, false}, {1 + 2*batchSpan, true}, {maxUnderway, true}} {
		synctest.Test(t, func(t *testing.T) {
			base := &target{root: root, refs: 2}
			b := &batch{
				files:  []*placed{{number: 1, in: base, temp: "x", name: "y"}},
				synced: make(chan error, 1),
			}
			r := &receiver{base: base, syncing: b, number: tt.number}
			done := make(chan error, 1)
			go func() { done <- r.settle() }()
			synctest.Wait()
			if waits := len(done) == 0; waits != tt.waits {
				t.Errorf("entry %d, the sync not done: waits %v, want %v", tt.number, waits, tt.waits)
			}
			failure := errors.New("the disk is gone")
			b.synced <- failure
			if err := <-done; tt.waits && !errors.Is(err, failure) {
				t.Errorf("entry %d: %v, want what the sync came to", tt.number, err)
			}
		})
	}
}
