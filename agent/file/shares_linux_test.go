package file

import (
	"bytes"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
)

// TestTransfersBelongToTheirCaller: the same id is another transfer to another caller,
// and one with many pushes out its own.
func TestTransfersBelongToTheirCaller(t *testing.T) {
	s, err := NewServer(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	key := func(account string, n byte) transferKey {
		return transferKey{account, [16]byte(bytes.Repeat([]byte{n}, 16))}
	}
	mine, err := s.begin(t.Context(), key("root", 1))
	if err != nil {
		t.Fatal(err)
	}
	evict := mine.evict
	for n := range maxTransfers + 50 {
		k := key("greedy", byte(n))
		k.id[0] = byte(n >> 8)
		other, err := s.begin(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		s.finish(k, other, false)
	}
	same, err := s.begin(t.Context(), key("greedy", 1))
	if err != nil || same == mine {
		t.Errorf("the same transfer, %v", err)
	}
	select {
	case <-evict:
		t.Error("root's call was ended")
	default:
	}
	s.finish(key("root", 1), mine, false)
	last := key("greedy", 0)
	last.id[0] = 0xff
	if _, err := s.begin(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if len(s.transfers) != maxTransfers || s.transfers[key("root", 1)] != mine {
		t.Errorf("%d transfers are remembered, root's: %v", len(s.transfers), s.transfers[key("root", 1)] == mine)
	}
}

// TestWatchesAreCharged: a call gives back what it has taken for its watches, and one
// that may have no more is told.
func TestWatchesAreCharged(t *testing.T) {
	pool := charge.NewPool(4)
	w := &watcher{pool: pool, account: charge.Account{ID: "a"}, paths: make(map[int]string)}
	for n := range 2 {
		if r := w.chargeNext(); r != nil {
			t.Fatal(r)
		}
		w.paths[n] = "x"
	}
	if w.chargeNext() == nil {
		t.Error("one caller gets more than half")
	}
	delete(w.paths, 0)
	if r := w.chargeNext(); r != nil {
		t.Errorf("a watch that is free again: %v", r)
	}
	if w.giveAll(); pool.Used() != 0 {
		t.Errorf("%d are left", pool.Used())
	}
}
