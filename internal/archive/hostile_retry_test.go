package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// try is one call of Receive with a scripted sender.
type try struct {
	h       *hostile
	answers chan *guestv1.UploadResponse // of the receiver; the test reads them if it wants to
	cut     context.CancelFunc
	ended   chan error
}

// newTry begins a call. What the receiver says is kept in answers, up to a thousand.
func newTry(t *testing.T, cfg *ReceiveConfig) *try {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	forth, back := make(chan []byte), make(chan []byte)
	tr := &try{answers: make(chan *guestv1.UploadResponse, 1000), cut: cancel, ended: make(chan error, 1)}
	tr.h = &hostile{pipe: &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}}
	go func() {
		for {
			m := new(guestv1.UploadResponse)
			if tr.h.RecvMsg(m) != nil {
				return
			}
			tr.answers <- m
		}
	}()
	go func() {
		_, err := Receive(&pipe{ctx: ctx, in: forth, out: back, ended: make(chan struct{})}, cfg)
		tr.ended <- err
		cancel()
	}()
	return tr
}

// wait returns what Receive did.
func (tr *try) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-tr.ended:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Receive does not return")
		return nil
	}
}

// answer returns the next answer for which is returns true.
func (tr *try) answer(t *testing.T, is func(*guestv1.UploadResponse) bool) *guestv1.UploadResponse {
	t.Helper()
	for {
		select {
		case m := <-tr.answers:
			if is(m) {
				return m
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no such answer")
		}
	}
}

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (h *hostile) offer(entries ...*guestv1.Entry) error {
	return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Offer{Offer: &guestv1.Offer{Entries: entries}}})
}

func noSync() *guestv1.TransferOptions {
	return &guestv1.TransferOptions{Sync: guestv1.SyncPolicy_SYNC_POLICY_NONE}
}

// TestRetryDecidesAsTheFirstTry has a sender cut the connection, and say in the second
// try what the first one did not listen to.
func TestRetryDecidesAsTheFirstTry(t *testing.T) {
	dst := t.TempDir()
	private, file := filepath.Join(dst, "a-private"), filepath.Join(dst, "b-file")
	old := time.Unix(1_600_000_000, 0)
	must(t, os.Mkdir(private, 0o700), os.Chtimes(private, old, old), os.WriteFile(file, []byte("here"), 0o600), os.Chtimes(file, old, old))
	memory := &Memory{}
	var after *guestv1.Position
	cfg := func(resume bool) *ReceiveConfig {
		return &ReceiveConfig{Destination: dst, Names: []string{""}, Options: noSync(), Resume: resume, Memory: memory, OnDone: func(d Done) {
			if d.Position != nil {
				after = d.Position
			}
			if d.Failure != nil {
				t.Error(d.Failure)
			}
		}}
	}
	first := newTry(t, cfg(false))
	must(t, first.h.entry(&guestv1.Entry{Path: []byte("a-private"), Mode: modeDir | 0o777, ModifiedUnixNanos: 1}),
		first.h.entry(&guestv1.Entry{Path: []byte("a-private/new"), Mode: modeDir | 0o751, ModifiedUnixNanos: 1e9}),
		first.h.file("a-private/new/x"))
	// The last one is only taken once the one before was made.
	must(t, first.h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Entries{}}))
	first.cut()
	if err := first.wait(t); !errors.Is(err, ErrCut) {
		t.Fatalf("the first try: %v, want a cut", err)
	}
	if string(after.GetPath()) != "a-private/new/x" {
		t.Errorf("cut after %q", after.GetPath())
	}

	second := newTry(t, cfg(true))
	offered := &guestv1.Entry{Number: 4, Path: []byte("b-file"), Mode: modeRegular | 0o644, Size: 4, ModifiedUnixNanos: old.UnixNano()}
	must(t, second.h.offer(
		&guestv1.Entry{Number: 1, Path: []byte("a-private"), Mode: modeDir | 0o777},
		&guestv1.Entry{Number: 2, Path: []byte("a-private/new"), Mode: modeDir | 0o751},
		&guestv1.Entry{Number: 3, Path: []byte("a-private/new/y"), Mode: modeRegular | 0o644, Size: 4}, offered))
	decision := second.answer(t, func(m *guestv1.UploadResponse) bool { return m.GetDecision() != nil }).GetDecision()
	if len(decision.Wanted) != 4 {
		t.Errorf("wanted of what was offered: %v, want all: the first try took all", decision.Wanted)
	}
	sum := sha256.Sum256([]byte("evil"))
	must(t, second.h.entry(&guestv1.Entry{Path: []byte("a-private"), Mode: modeDir | 0o777, ModifiedUnixNanos: 1}),
		second.h.entry(&guestv1.Entry{Path: []byte("a-private/new"), Mode: modeDir | 0o751, ModifiedUnixNanos: 1e9}),
		second.h.file("a-private/new/y"),
		second.h.entry(&guestv1.Entry{Path: []byte("b-file"), Mode: modeRegular | 0o644, Size: 4, Contents: []byte("evil"), Sha256: sum[:], ModifiedUnixNanos: old.UnixNano()}),
		second.h.finish())
	must(t, second.wait(t))

	info, err := os.Stat(private)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("a directory that was there has the mode %v after a retry, had 0700", info.Mode())
	}
	info, err = os.Stat(filepath.Join(private, "new"))
	must(t, err)
	if info.Mode() != os.ModeDir|0o751 || info.ModTime().Unix() != 1 {
		t.Errorf("the directory that the first try made: %v, %v, want mode 0751 and the sender's time", info.Mode(), info.ModTime())
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "evil" {
		t.Errorf("the file of the same size and time: %q, %v, want the sender's, as in the first try", data, err)
	}
}

// TestRetriesShareTheLimits has a sender cut the connection again and again: what it
// may send is bounded over all tries.
func TestRetriesShareTheLimits(t *testing.T) {
	for name, limits := range map[string][2]uint64{ReasonTooMany: {10, 1 << 20}, ReasonTooManyBytes: {1000, 10}} {
		memory, dst := &Memory{}, t.TempDir()
		var failure *Failure
		for n := 0; failure == nil && n < 50; n++ {
			tr := newTry(t, &ReceiveConfig{Destination: dst, Names: []string{""}, Options: noSync(), Resume: n > 0, Memory: memory, MaxEntries: limits[0], MaxBytes: limits[1]})
			_ = tr.h.file("a")
			_ = tr.h.send(&guestv1.UploadRequest{})
			tr.cut()
			failure, _ = errors.AsType[*Failure](tr.wait(t))
		}
		if failure == nil || failure.Reason != name {
			t.Errorf("after many tries: %v, want %s", failure, name)
		}
	}
}

// TestAcknowledgedIsInPlace has a sync that takes its time: what it is to make durable
// is not acknowledged before, nor said to be done when the connection is cut.
func TestAcknowledgedIsInPlace(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	base := &target{root: root, path: dir, refs: 1}
	r := &receiver{base: base, stack: []*target{base}, names: []string{""}, cfg: &ReceiveConfig{Options: &guestv1.TransferOptions{}}, ctx: t.Context(),
		finished: &guestv1.Finished{}, left: newAllowance(0, 0)}
	for n := range uint64(3) {
		r.number = n + 1
		e := &guestv1.Entry{Number: n + 1, Path: []byte{byte('a' + n)}}
		must(t, os.WriteFile(filepath.Join(dir, "temp"+string(e.Path)), nil, 0o600))
		p := newPlaced(e, base, "temp"+string(e.Path), string(e.Path))
		if n == 0 {
			r.syncing = &batch{files: []*placed{p}, synced: make(chan error, 1)}
			continue
		}
		r.filling.add(p)
	}
	if got := r.inPlace(); got != 0 {
		t.Errorf("with entry 1 in a sync %d entries are in place, want 0", got)
	}
	r.syncing.synced <- nil
	must(t, r.finishSync(false))
	if got := r.inPlace(); got != 1 {
		t.Errorf("after the first sync %d entries are in place, want 1", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Error(err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "[bc]")); len(names) > 0 {
		t.Errorf("%q have their names before the sync", names)
	}
}

// TestCutWhileSyncing cuts a transfer whose files could not be made durable: none of
// them counts as done, so that the next try sends them again.
func TestCutWhileSyncing(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	base := &target{root: root, path: dir, refs: 1}
	r := &receiver{base: base, stack: []*target{base}, names: []string{""}, ctx: t.Context(), finished: &guestv1.Finished{}, left: newAllowance(0, 0),
		number: 1, position: &guestv1.Position{Path: []byte("a")}}
	r.cfg = &ReceiveConfig{Options: &guestv1.TransferOptions{}, OnDone: func(d Done) {
		if d.Position != nil {
			t.Errorf("done up to %q", d.Position.Path)
		}
	}}
	must(t, os.WriteFile(filepath.Join(dir, "temp"), nil, 0o600))
	r.syncing = &batch{files: []*placed{newPlaced(&guestv1.Entry{Number: 1, Path: []byte("a")}, base, "temp", "a")}, synced: make(chan error, 1)}
	r.syncing.synced <- errors.New("the disk is gone")
	if err := r.close(cut(context.Canceled)); !errors.Is(err, ErrCut) {
		t.Errorf("close: %v, want the cut", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("what is not durable has its name")
	}
}

// TestStreamedFileWithAWrongHash has a sender lie about the SHA-256 of a file that
// comes in pieces: nothing gets its name.
func TestStreamedFileWithAWrongHash(t *testing.T) {
	dst := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dst, "f"), []byte("before"), 0o600))
	var failures []*Failure
	tr := newTry(t, &ReceiveConfig{Destination: dst, Names: []string{""}, Options: noSync(), OnDone: func(d Done) {
		if d.Failure != nil {
			failures = append(failures, d.Failure)
		}
	}})
	must(t, tr.h.start("f", 4, 0), tr.h.piece(0, []byte("evil"), 0),
		tr.h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: &guestv1.FileEnd{Size: 4, Sha256: make([]byte, 32)}}}), tr.h.finish())
	must(t, tr.wait(t))
	if len(failures) != 1 || failures[0].Reason != ReasonHashMismatch {
		t.Errorf("failures %v, want one with %s", failures, ReasonHashMismatch)
	}
	if data, err := os.ReadFile(filepath.Join(dst, "f")); err != nil || string(data) != "before" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// TestSetgidIsNotPlanted has a sender send a directory and a file with the bits that
// give away rights.
func TestSetgidIsNotPlanted(t *testing.T) {
	for _, keep := range []bool{false, true} {
		dst := t.TempDir()
		options := noSync()
		options.KeepSetuid = keep
		tr := newTry(t, &ReceiveConfig{Destination: dst, Names: []string{""}, Options: options})
		sum := sha256.Sum256(nil)
		must(t, tr.h.entry(&guestv1.Entry{Path: []byte("d"), Mode: modeDir | modeSetgid | 0o755}),
			tr.h.entry(&guestv1.Entry{Path: []byte("f"), Mode: modeRegular | modeSetuid | modeSetgid | 0o755, Sha256: sum[:]}), tr.h.finish())
		must(t, tr.wait(t))
		finished := tr.answer(t, func(m *guestv1.UploadResponse) bool { return m.GetFinished() != nil }).GetFinished()
		if dropped := map[bool]uint64{false: 2}[keep]; finished.SetuidDropped != dropped {
			t.Errorf("KeepSetuid %v: %d files without their bits, want %d", keep, finished.SetuidDropped, dropped)
		}
		for name, bits := range map[string]os.FileMode{"d": os.ModeSetgid, "f": os.ModeSetuid | os.ModeSetgid} {
			info, err := os.Stat(filepath.Join(dst, name))
			must(t, err)
			want := os.FileMode(0)
			if keep {
				want = bits
			}
			if got := info.Mode() & (os.ModeSetuid | os.ModeSetgid); got != want {
				t.Errorf("KeepSetuid %v: %s has %v, want %v", keep, name, got, want)
			}
		}
	}
}

// TestOffersCount has a sender offer entries without end.
func TestOffersCount(t *testing.T) {
	tr := newTry(t, &ReceiveConfig{Destination: t.TempDir(), Names: []string{""}, Options: noSync(), Resume: true, MaxEntries: 100})
	n := uint64(0)
	for range 1000 {
		var batch []*guestv1.Entry
		for range 10 {
			n++
			batch = append(batch, &guestv1.Entry{Number: n, Path: []byte("x"), Mode: modeDir})
		}
		if tr.h.offer(batch...) != nil || len(tr.ended) > 0 {
			break
		}
	}
	tr.cut()
	if f, ok := errors.AsType[*Failure](tr.wait(t)); !ok || f.Reason != ReasonTooMany || n > 200 {
		t.Errorf("after %d entries were offered: %v, want %s", n, f, ReasonTooMany)
	}
}
