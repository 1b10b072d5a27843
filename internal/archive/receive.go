package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The bounds of a receiver that has none of its own.
const (
	DefaultMaxEntries = 10_000_000
	DefaultMaxBytes   = 16 << 40
)

// ReceiveConfig is where and how Receive writes.
type ReceiveConfig struct {
	// Transfer is the transfer's id.
	Transfer [16]byte
	// Destination is where to write: a directory to put the sources in or, for
	// one source, its new name. With a slash at its end it must be a directory.
	Destination string
	// Root bounds Destination; nil for the whole file system.
	Root *os.Root
	// Names are what the sources are called; empty for one whose contents go into
	// the destination.
	Names   []string
	Options *guestv1.TransferOptions
	// Denied are files not to write: each counts as one that cannot be written.
	Denied Denied
	// Resume keeps, and goes on with, the unfinished files and directories of an
	// earlier try.
	Resume bool
	// Skip, of an offer, leaves files alone that are here with the right size and time
	// of modification. Without it that is only for those that Memory knows to have been
	// made by an earlier try.
	Skip    bool
	Memory  *Memory // of earlier tries; nil for none
	Attempt uint32  // of the run that Memory's counts are of; 0 and 1 begin it

	// Trusted takes the sender's links as they are, wherever they lead, and
	// entries in any order.
	Trusted bool
	// OutsideLinks allows symbolic links to lead anywhere; Trusted does too.
	OutsideLinks bool
	// Owner returns the owner to give a file with Options.Archive. nil: leave it.
	Owner func(e *guestv1.Entry) (uid, gid int)
	// Xattr reports whether an extended attribute may be set. nil: none.
	Xattr func(name string) bool
	// FoldNames reports names as collisions that differ in case alone.
	FoldNames bool

	// The most that is taken, in all tries that share a Memory.
	MaxEntries uint64 // 0: DefaultMaxEntries
	MaxBytes   uint64 // 0: DefaultMaxBytes

	// OnDone is as in SendConfig. Failures that are not Remote are this side's.
	OnDone func(Done)
}

// Receive writes what comes on st to the destination. The opening messages have
// been exchanged but for ready, which Receive sends. It returns what it has told
// the sender in the end; what went wrong with single files OnDone learns.
//
// After a cut, which is an error that is ErrCut, unfinished files are left for
// another try; after any other error nothing unfinished is left.
//
// It does all its work on the goroutine that calls it.
func Receive(st Stream, cfg *ReceiveConfig) (*guestv1.Finished, error) {
	r := &receiver{st: st, cfg: cfg, ctx: st.Context(), frame: newSenderFrame(), crc: cfg.Options.GetCrc() && !cfg.Options.GetChecksum()}
	if r.cfg.Memory == nil {
		r.cfg.Memory = &Memory{}
	}
	r.finished = r.cfg.Memory.count(cfg.Attempt)
	r.left = r.cfg.Memory.allowance(cfg.MaxEntries, cfg.MaxBytes)
	err := r.openDestination()
	if err == nil {
		err = r.run()
	}
	if err != nil && r.ctx.Err() != nil && !errors.Is(err, ErrCut) {
		err = cut(err) // in the midst of reading what is here
	}
	err = r.close(err)
	if err != nil {
		return nil, err
	}
	m := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Finished{Finished: r.finished}}
	if err := r.tell(m); err != nil {
		return nil, err
	}
	return r.finished, nil
}

type receiver struct {
	st    Stream
	cfg   *ReceiveConfig
	ctx   context.Context
	frame *bulk.Frame

	crc     bool      // sums are CRCs
	base    *target   // the destination
	made    string    // that, if it was made for the contents of a source; otherwise empty
	names   []string  // of the sources, in it
	stack   []*target // from base down to where the last entry is
	source  uint32    // of the last entry
	current *file     // under way, or nil
	discard uint64    // the entry whose pieces are thrown away, or 0
	filling batch     // whole files that are not renamed yet
	syncing *batch    // those before them, whose sync has begun, or nil
	// Their paths, if the sender may send a name twice.
	waitingAt map[string]bool
	single    bool // one file, and no tree

	number     uint64            // of the last entry
	position   *guestv1.Position // of that, and of the one before
	before     *guestv1.Position
	bytes      uint64            // of contents, consumed
	reported   uint64            // of them, acknowledged
	reportedTo uint64            // entries
	offered    map[uint64]uint64 // of an entry, how much of it is here
	left       *allowance
	foldedHeld int // bytes of names in the targets' folded
	finished   *guestv1.Finished
}

// openDestination finds out what the destination is.
func (r *receiver) openDestination() error {
	dest := r.cfg.Destination
	mustBeDir := strings.HasSuffix(dest, "/") || len(r.cfg.Names) > 1 || filepath.Base(dest) == "." || filepath.Base(dest) == ".."
	contents := false
	r.names = append(r.names, r.cfg.Names...)
	seen := make(map[string]bool)
	for _, name := range r.names {
		if name == "" {
			contents = true
			continue
		}
		if err := checkName(name); err != nil {
			return err
		}
		if seen[name] {
			return newFailure("receive", name, codes.InvalidArgument, ReasonCollision, "two sources have this name")
		}
		seen[name] = true
	}
	info, err := r.statDestination(dest)
	// A directory that an earlier try has given this name is not one to copy into.
	begun := err == nil && info.IsDir() && r.cfg.Resume && !mustBeDir && !contents && r.isMarked(dest)
	switch {
	case err == nil && info.IsDir() && !begun:
	case err == nil && mustBeDir || err == nil && contents:
		return newFailure("open", dest, codes.FailedPrecondition, ReasonNotDirectory, "it is no directory")
	case err == nil && !begun && !info.Mode().IsRegular():
		f := newFailure("open", dest, codes.FailedPrecondition, ReasonSpecial, "it is a %s", kindOf(LinuxMode(info.Mode())))
		f.Remedy = "a copy replaces files only: write to it with a command"
		return f
	case err == nil || errors.Is(err, fs.ErrNotExist) && !contents && !mustBeDir:
		// The single source gets this name.
		switch {
		case err == nil && r.cfg.Root != nil:
			dest = Follow(r.cfg.Root, dest)
		case err == nil:
			if dest, err = filepath.EvalSymlinks(dest); err != nil {
				return failed("open", dest, err)
			}
		}
		// Not filepath.Dir, for which a link and ".." are nothing.
		switch dest, r.names[0] = filepath.Split(dest); dest {
		case "":
			dest = "."
		case "/":
		default:
			dest = strings.TrimRight(dest, "/")
		}
		if err := checkName(r.names[0]); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist) && contents:
		if err := r.makeDestination(dest); err != nil {
			return failed("mkdir", dest, err)
		}
		r.made = dest
	default:
		return failed("open", dest, err)
	}
	var root *os.Root
	if r.cfg.Root != nil {
		root, err = r.cfg.Root.OpenRoot(InRoot(dest) + asDir)
	} else {
		root, err = os.OpenRoot(dest + asDir)
	}
	if err == nil {
		if _, err = r.cfg.Denied.directory(root, dest); err != nil {
			root.Close()
		}
	}
	if err != nil {
		return failed("open", dest, err)
	}
	r.base = &target{root: root, path: dest, refs: 1, fresh: r.made != ""}
	if info, err := root.Stat("."); err == nil {
		r.base.setgid = info.Mode()&fs.ModeSetgid != 0
	}
	r.stack = []*target{r.base}
	if r.made == "" {
		r.base.clean(r.cfg)
	}
	return nil
}

// isMarkable reports whether the directory is marked that a transfer makes: that of
// a single source, so that the same transfer, tried again, goes on in it and does
// not take it for one to copy into.
func (r *receiver) isMarkable() bool { return len(r.names) == 1 && r.names[0] != "" }

// markName is the name of a file in that directory, as long as the transfer is not
// at its end.
func (r *receiver) markName() string { return tempName(r.cfg.Transfer, "") }

// isMarked reports whether an earlier try of this transfer has made a directory.
func (r *receiver) isMarked(dir string) bool {
	dir = strings.TrimRight(dir, "/") + "/" + r.markName()
	var info fs.FileInfo
	var err error
	if r.cfg.Root != nil {
		info, err = r.cfg.Root.Lstat(InRoot(dir))
	} else {
		info, err = os.Lstat(dir)
	}
	return err == nil && info.Mode().IsRegular()
}

func (r *receiver) statDestination(dest string) (fs.FileInfo, error) {
	if r.cfg.Root != nil {
		return r.cfg.Root.Stat(InRoot(dest))
	}
	return os.Stat(dest)
}

func (r *receiver) makeDestination(dest string) error {
	if r.cfg.Root != nil {
		return r.cfg.Root.Mkdir(InRoot(dest), 0o777)
	}
	return os.Mkdir(strings.TrimRight(dest, "/"), 0o777)
}

// removeDestination removes the directory that makeDestination has made, if it is empty.
func (r *receiver) removeDestination() {
	if r.cfg.Root != nil {
		r.cfg.Root.Remove(InRoot(r.made))
	} else {
		os.Remove(strings.TrimRight(r.made, "/"))
	}
}

// run receives until the end.
func (r *receiver) run() error {
	ready := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Ready{Ready: &guestv1.Ready{Window: Window, Crc: r.crc}}}
	if err := r.tell(ready); err != nil {
		return err
	}
	defer r.frame.Free()
	for {
		r.frame.Control = nil
		if err := r.st.RecvMsg(r.frame); err != nil {
			return cut(err)
		}
		end, err := r.take(r)
		if err != nil || end {
			return err
		}
		if err := r.settle(); err != nil {
			return err
		}
		if err := r.acknowledge(false); err != nil {
			return err
		}
	}
}

// tell sends a message.
func (r *receiver) tell(m *guestv1.UploadResponse) error {
	err := r.st.SendMsg(m)
	// Of a client's stream that has ended SendMsg says io.EOF, and RecvMsg, after
	// what had come before, says why.
	for err != nil && errors.Is(err, io.EOF) {
		r.frame.Control = nil
		if recvErr := r.st.RecvMsg(r.frame); recvErr != nil {
			err = recvErr
			break
		}
	}
	if err != nil {
		return cut(err)
	}
	return nil
}

// A sink does with what a sender has what it is for.
type sink interface {
	entry(*guestv1.Entry) error
	begin(*guestv1.FileStart) error
	piece() error
	end(*guestv1.FileEnd) error
	offer(*guestv1.Offer) error
	remoteFailure(*guestv1.FileFailure) error
	finish() error
}

var (
	_ sink = (*receiver)(nil)
	_ sink = (*tarCall)(nil)
)

// finish has nothing left to do: that is said in the answer.
func (r *receiver) finish() error { return nil }

// take takes in one message, for to.
func (r *receiver) take(to sink) (end bool, err error) {
	if r.frame.IsData() {
		return false, to.piece()
	}
	m := r.frame.Control.(*guestv1.UploadRequest)
	if r.current != nil {
		switch m.Message.(type) {
		case *guestv1.UploadRequest_End, *guestv1.UploadRequest_Failure:
		default:
			return false, protocolFailure("a file without an end")
		}
	}
	switch m := m.Message.(type) {
	case *guestv1.UploadRequest_Entries:
		if len(m.Entries.GetEntries()) == 0 {
			return false, r.count(1)
		}
		for _, e := range m.Entries.GetEntries() {
			if err := to.entry(e); err != nil {
				return false, err
			}
		}
	case *guestv1.UploadRequest_File:
		return false, to.begin(m.File)
	case *guestv1.UploadRequest_End:
		return false, to.end(m.End)
	case *guestv1.UploadRequest_Offer:
		return false, to.offer(m.Offer)
	case *guestv1.UploadRequest_Failure:
		return false, to.remoteFailure(m.Failure)
	case *guestv1.UploadRequest_Finish:
		return true, to.finish()
	case *guestv1.UploadRequest_Open:
		return false, protocolFailure("a second opening message")
	default:
		// Of a later version; count it, so that it is bounded.
		return false, r.count(1)
	}
	return false, nil
}

// count counts entries against the limit.
func (r *receiver) count(n uint64) error {
	if n > r.left.entries {
		return &Failure{Code: codes.ResourceExhausted, Reason: ReasonTooMany, Text: "the sender has more entries than the limit",
			Remedy: "raise the limit, if the sender is to be trusted"}
	}
	r.left.entries -= n
	return nil
}

// consume counts bytes of contents against the limit.
func (r *receiver) consume(n uint64) error {
	if n > r.left.bytes {
		return &Failure{Code: codes.ResourceExhausted, Reason: ReasonTooManyBytes, Text: "the sender has more bytes than the limit",
			Remedy: "raise the limit, if the sender is to be trusted"}
	}
	r.left.bytes -= n
	return nil
}

// keepAsked takes out of an entry what was not asked for: without Archive, whose file
// it is, and extended attributes but those that may be set.
func (r *receiver) keepAsked(e *guestv1.Entry) error {
	if !r.cfg.Options.GetArchive() {
		e.User, e.Group, e.Xattrs = nil, nil, nil
		return nil
	}
	return keepXattrs(e, r.cfg.Xattr)
}

// keepXattrs takes out of an entry the extended attributes that may not be set. nil
// means that none may.
func keepXattrs(e *guestv1.Entry, may func(name string) bool) error {
	size := 0
	for _, x := range e.GetXattrs() {
		size += len(x.GetName()) + len(x.GetValue())
	}
	if size > maxXattrs {
		return protocolFailure("%d bytes of attributes of one file", size)
	}
	if len(e.GetXattrs()) > 0 {
		e.Xattrs = slices.DeleteFunc(e.Xattrs, func(x *guestv1.TransferXattr) bool { return may == nil || !may(string(x.GetName())) })
	}
	return nil
}

// next checks that an entry comes after the one before.
func (r *receiver) next(number uint64) error {
	if number <= r.number {
		return protocolFailure("entry %d after %d", number, r.number)
	}
	r.number = number
	return r.count(1)
}

// at notes where the walk has come to.
func (r *receiver) at(e *guestv1.Entry) {
	r.before, r.position = r.position, &guestv1.Position{Source: e.Source, Path: e.Path}
}

// close ends the transfer: what is whole is put in place, what is not stays only
// if it may be gone on with.
func (r *receiver) close(err error) error {
	if r.base == nil {
		return err
	}
	isCut := errors.Is(err, ErrCut)
	position := r.position
	if r.current != nil {
		position = r.before
		if isCut {
			r.current.leave(r.cfg.Memory)
		} else {
			r.current.drop()
		}
		r.current = nil
	}
	flushErr := r.flush(true)
	if err == nil {
		err = flushErr
	}
	if isCut && position != nil && flushErr == nil {
		r.done(Done{Position: position})
	}
	if r.isMarkable() && !isCut {
		r.base.root.Remove(joinPath(r.names[0], r.markName()))
	}
	for _, t := range r.stack {
		if isCut {
			t.entry = nil // there is more to be written to it
		}
	}
	r.popTo(1)
	if err == nil {
		err = r.syncAll()
	}
	r.base.release()
	if r.made != "" && !isCut && r.finished.Files == 0 && (err != nil || r.finished.Failed > 0) {
		r.removeDestination() // unless something is in it
	}
	if err == nil && r.base.failure != nil {
		r.done(Done{Failure: r.base.failure})
	}
	return err
}
