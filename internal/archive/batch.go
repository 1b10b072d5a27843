package archive

import (
	"bytes"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Bounds of a batch of whole files that wait for one sync.
const (
	// batchSpan bounds the entries from its first file on. They are acknowledged
	// when they are in place: two batches, of which one is synced while the other
	// fills, and the messages on the way have to be fewer entries than maxUnderway,
	// or the sender and the receiver would wait for each other.
	batchSpan    = 2048
	batchDirs    = 512 // directories held open
	batchWritten = 256 << 20
	batchHeld    = 2 << 20 // bytes of names and paths
)

// placed is a whole file under its temporary name. Of its entry it has what is
// needed to put it in place, and nothing that the entry's message lies in.
type placed struct {
	number uint64
	source uint32
	entry  []byte // its path below the source
	size   uint64
	in     *target // held
	temp   string
	name   string
}

func newPlaced(e *guestv1.Entry, t *target, temp, name string) *placed {
	return &placed{number: e.Number, source: e.Source, entry: bytes.Clone(e.Path), size: e.Size, in: t.hold(), temp: temp, name: name}
}

func (p *placed) path() string { return joinPath(p.in.path, p.name) }

// batch is whole files that get their names after one sync.
type batch struct {
	files  []*placed
	bytes  uint64
	dirs   int
	held   int        // bytes of names and paths
	synced chan error // what the sync came to, once
}

// first returns the number of the first entry.
func (b *batch) first() uint64 { return b.files[0].number }

func (b *batch) add(p *placed) {
	if n := len(b.files); n == 0 || b.files[n-1].in != p.in {
		b.dirs++
		b.held += len(p.in.path)
	}
	b.files = append(b.files, p)
	b.bytes += p.size
	b.held += len(p.entry) + len(p.temp) + len(p.name)
}

// full reports whether the batch is to be synced when entries have come up to a
// number.
func (b *batch) full(number uint64) bool {
	return len(b.files) > 0 && (number-b.first() >= batchSpan || b.dirs >= batchDirs || b.bytes >= batchWritten || b.held >= batchHeld)
}

// wait has a whole file wait for its batch. It takes over the hold of p.
func (r *receiver) wait(p *placed) error {
	r.filling.add(p)
	if r.cfg.Trusted {
		if r.waitingAt == nil {
			r.waitingAt = make(map[string]bool)
		}
		r.waitingAt[p.path()] = true
	}
	return r.settle()
}

// isWaiting reports whether an entry of before is whole and not in place yet.
func (r *receiver) isWaiting(p *guestv1.Position) bool {
	return r.anyWaiting(func(w *placed) bool {
		return w.source == p.GetSource() && bytes.Equal(w.entry, p.GetPath())
	})
}

// isWaitingIn reports whether whole files wait for their names in a directory,
// which this transfer has been in before.
func (r *receiver) isWaitingIn(path string) bool {
	return r.anyWaiting(func(w *placed) bool { return w.in.path == path })
}

func (r *receiver) anyWaiting(is func(*placed) bool) bool {
	return slices.ContainsFunc(r.filling.files, is) || r.syncing != nil && slices.ContainsFunc(r.syncing.files, is)
}

// settle puts in place what is durable by now, and begins to make the next batch
// durable if it is full.
func (r *receiver) settle() error {
	// After two spans the sender may have no more to send before it hears of these.
	if b := r.syncing; b != nil && (len(b.synced) > 0 || r.number-b.first() >= 2*batchSpan) {
		if err := r.finishSync(false); err != nil {
			return err
		}
	}
	if !r.filling.full(r.number) {
		return nil
	}
	if err := r.finishSync(false); err != nil {
		return err
	}
	r.beginSync()
	return nil
}

// flush makes all that waits durable and puts it in place.
func (r *receiver) flush(last bool) error {
	err := r.finishSync(last)
	r.beginSync()
	if nextErr := r.finishSync(last); err == nil {
		err = nextErr
	}
	return err
}

// beginSync begins to make the batch durable, while the next one fills. No other
// sync may be under way.
func (r *receiver) beginSync() {
	if len(r.filling.files) == 0 {
		return
	}
	b := r.filling
	b.synced = make(chan error, 1)
	r.filling, r.syncing = batch{}, &b
	d, err := r.base.root.Open(".")
	if err != nil {
		b.synced <- err
		return
	}
	go func() {
		defer d.Close()
		b.synced <- syncTree(d)
	}()
}

// finishSync waits for the sync that is under way, if there is one, and puts its
// files in place.
func (r *receiver) finishSync(last bool) error {
	if r.syncing == nil {
		return nil
	}
	return r.place(<-r.syncing.synced, last)
}

// place gives the files of a batch their names, or removes them if they could not
// be made durable.
func (r *receiver) place(err error, last bool) error {
	files := r.syncing.files
	r.syncing = nil
	if err != nil {
		err = failed("sync", r.base.path, err)
	}
	for _, p := range files {
		delete(r.waitingAt, p.path())
		if err != nil {
			p.in.root.Remove(p.temp)
		} else if renameErr := r.rename(p); renameErr != nil {
			if last && r.ctx.Err() != nil {
				r.countFailed(p.source, p.entry)
				r.done(Done{Failure: failed("rename", p.path(), renameErr)})
			} else {
				err = r.failedEntry(&guestv1.Entry{Number: p.number, Source: p.source, Path: p.entry}, renameErr)
			}
		} else {
			r.countFile(p.source, p.entry, p.size)
		}
		p.in.release()
	}
	return err
}

// rename puts the file in place.
func (r *receiver) rename(p *placed) error {
	if r.cfg.Options.GetInPlace() && !p.in.fresh {
		if done, err := r.writeInto(p); done || err != nil {
			p.in.root.Remove(p.temp)
			return err
		}
	}
	err := p.in.root.Rename(p.temp, p.name)
	if err == nil {
		return nil
	}
	p.in.root.Remove(p.temp)
	if info, statErr := p.in.root.Lstat(p.name); statErr == nil && info.IsDir() {
		return newFailure("rename", p.path(), codes.FailedPrecondition, ReasonIsDirectory, "a directory is in the way")
	}
	return failed("rename", p.path(), err)
}

// syncFileSystem makes durable what was written so far.
func (r *receiver) syncFileSystem() error {
	d, err := r.base.root.Open(".")
	if err == nil {
		err = syncTree(d)
		d.Close()
	}
	if err != nil {
		return failed("sync", r.base.path, err)
	}
	return nil
}

func syncDir(t *target) error {
	d, err := t.root.Open(".")
	if err != nil {
		return failed("sync", t.path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && onLinux {
		return failed("sync", t.path, err)
	}
	return nil
}

// syncAll makes the names durable too.
func (r *receiver) syncAll() error {
	switch {
	case r.cfg.Options.GetSync() != guestv1.SyncPolicy_SYNC_POLICY_UNSPECIFIED || r.finished.Files == 0 || r.single:
		return nil
	case hasSyncTree:
		return r.syncFileSystem()
	}
	return syncDir(r.base)
}
