package archive

import (
	"errors"
	"os"
	"strings"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// file is a file that is being written.
type file struct {
	entry  *guestv1.Entry
	in     *target // held
	name   string
	temp   string
	f      *os.File
	offset uint64
	begun  uint64 // up to here the system was told to write it to the disk
	hash   *Rolling
}

// writebackBytes is how much of a file that is to be durable is written before
// the disk is set to work on it, while more comes.
const writebackBytes = 8 << 20

func (c *file) path() string { return joinPath(c.in.path, c.name) }

// drop ends the file and leaves nothing of it.
func (c *file) drop() {
	c.f.Close()
	c.in.root.Remove(c.temp)
	c.in.release()
}

// leave ends the file so that another try can go on with it.
func (c *file) leave(m *Memory) {
	if c.offset == 0 || c.entry.SizeUnknown || c.f.Truncate(int64(c.offset)) != nil {
		m.forget()
		c.drop()
		return
	}
	c.f.Close()
	c.in.release()
}

// begin begins a file whose contents come in pieces.
func (r *receiver) begin(m *guestv1.FileStart) error {
	e := m.GetEntry()
	if err := r.next(e.GetNumber()); err != nil {
		return err
	}
	if err := r.keepAsked(e); err != nil {
		return err
	}
	r.at(e)
	has := r.offered[e.Number]
	switch {
	case e.Mode&modeType != modeRegular || e.HardLink != nil || len(e.Contents) > 0:
		return protocolFailure("contents of what is no file")
	case e.Size > 1<<62:
		return protocolFailure("a file of %d bytes", e.Size)
	case m.GetOffset() != 0 && m.GetOffset() != has || m.GetOffset() > e.Size:
		return protocolFailure("a file begins at byte %d", m.GetOffset())
	}
	t, name, err := r.enter(e)
	if err == nil && t == nil {
		return protocolFailure("a file has no name")
	}
	if err == nil && t.root == nil {
		err = errLost
	}
	if err == nil {
		err = r.fold(t, name)
	}
	var c *file
	if err == nil {
		c = &file{entry: e, in: t.hold(), name: name, temp: tempName(r.cfg.Transfer, name), offset: m.GetOffset()}
		if err = r.openTemp(c, m.GetCrc()); err != nil {
			t.release()
		}
	}
	if err != nil {
		if f, ok := errors.AsType[*Failure](err); ok && f.Reason == ReasonProtocol || r.ctx.Err() != nil {
			return err
		}
		r.discard = e.Number
		switch {
		case errors.Is(err, errLost):
			r.countFailed(e.Source, e.Path)
			return nil
		case errors.Is(err, errThere):
			r.countSkipped(e)
			return nil
		}
		return r.failedEntry(e, err)
	}
	r.current = c
	r.done(Done{Files: 1, Path: string(e.Path), Size: e.Size - c.offset})
	return nil
}

// openTemp opens the file to write to, with what is to be kept of it.
func (r *receiver) openTemp(c *file, crc bool) error {
	key := fileKey{path: joinPath(c.in.path, c.temp)}
	if c.offset == 0 {
		r.cfg.Memory.forget()
		c.hash = r.cfg.Memory.rollingFor(key, crc)
		f, err := r.createTemp(c.in, c.name)
		if err != nil {
			return err
		}
		c.f = f
		if err := lock(f); err != nil {
			c.f.Close()
			return newFailure("create", c.path(), codes.Aborted, ReasonBusy, "another copy is writing it")
		}
		return nil
	}
	f, err := openPartial(c.in.root, c.temp)
	if err != nil {
		return failed("open", c.path(), err)
	}
	c.f, c.hash = f, r.cfg.Memory.rollingFor(key, crc)
	if err = c.hash.advance(f, c.offset, r.ctx.Err); err == nil {
		err = f.Truncate(int64(c.offset))
	}
	if err != nil {
		f.Close()
		return failed("read", c.path(), err)
	}
	return nil
}

// openPartial opens an unfinished file, if it is one that only this transfer, as the
// user that it acts as, can have made.
func openPartial(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDWR|openFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	sys := sysInfo{}
	if err == nil {
		sys = sysOf(info)
	}
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || onLinux && (sys.links != 1 || sys.uid != fileUser()):
		err = newFailure("open", name, codes.FailedPrecondition, ReasonSpecial, "it is not an unfinished file of ours")
	default:
		if lock(f) == nil {
			return f, nil
		}
		err = newFailure("open", name, codes.Aborted, ReasonBusy, "another copy is writing it")
	}
	f.Close()
	return nil, err
}

// piece takes in a piece of the file under way.
func (r *receiver) piece() error {
	data := r.frame.Data
	offset, hole := r.frame.Varints[pieceOffset], r.frame.Varints[pieceHole]
	n := uint64(len(data))
	r.bytes += n
	if err := r.consume(n + min(hole, maxHole)); err != nil {
		return err
	}
	c := r.current
	if c == nil {
		if r.discard != 0 {
			return r.count(btoi(n == 0))
		}
		return protocolFailure("a piece of no file")
	}
	switch {
	case n > 4*PieceBytes || hole > maxHole || n > 0 && hole > 0 || n == 0 && hole == 0:
		return protocolFailure("a piece of %d bytes and a hole of %d", n, hole)
	case offset != c.offset:
		return protocolFailure("a piece at byte %d, want %d", offset, c.offset)
	case !c.entry.SizeUnknown && (n+hole > c.entry.Size || offset > c.entry.Size-n-hole):
		return protocolFailure("%q has more than its %d bytes", c.entry.Path, c.entry.Size)
	}
	var err error
	if hole > 0 {
		c.hash.hole(hole)
		err = c.f.Truncate(int64(offset + hole))
	} else {
		err = c.hash.alongside(data, func() error {
			_, err := c.f.WriteAt(data, int64(offset))
			return err
		})
	}
	if err != nil {
		failure := writeFailed(c.path(), c.offset, err)
		c.drop()
		r.current, r.discard = nil, c.entry.Number
		r.cfg.Memory.forget()
		return r.failedEntry(c.entry, failure)
	}
	c.offset += n + hole
	if c.offset-c.begun >= writebackBytes && r.cfg.Options.GetSync() != guestv1.SyncPolicy_SYNC_POLICY_NONE {
		beginWriteback(c.f, int64(c.begun), int64(c.offset-c.begun))
		c.begun = c.offset
	}
	r.done(Done{Bytes: n + hole})
	return nil
}

func btoi(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// end ends the file under way.
func (r *receiver) end(m *guestv1.FileEnd) error {
	c := r.current
	if c == nil {
		if r.discard == 0 {
			return protocolFailure("the end of no file")
		}
		r.discard = 0
		return nil
	}
	r.current = nil
	got := c.hash.sum()
	r.cfg.Memory.forget()
	var err error
	switch {
	case m.GetSize() != c.offset || !c.entry.SizeUnknown && c.offset != c.entry.Size:
		c.drop()
		return protocolFailure("%q ends at byte %d of %d", c.entry.Path, m.GetSize(), c.entry.Size)
	case !got.equal(endSum(m, c.hash.isCRC())):
		err = hashMismatch(c.path())
		c.drop()
	default:
		c.entry.Size = c.offset
		err = r.complete(c.f, c.in, c.name, c.entry)
		c.in.release()
	}
	if err == nil && m.GetChanged() {
		f := changedFailure(r.named(c.entry))
		r.done(Done{Failure: f, Remote: true})
	}
	if err != nil {
		return r.failedEntry(c.entry, err)
	}
	return nil
}

// offer answers which of the entries are lacking.
func (r *receiver) offer(m *guestv1.Offer) error {
	if len(m.GetEntries()) == 0 {
		return r.count(1)
	}
	if err := r.flush(false); err != nil {
		return err
	}
	r.offered = make(map[uint64]uint64)
	d := &guestv1.Decision{}
	last := r.number
	for _, e := range m.GetEntries() {
		if e.GetNumber() <= last {
			return protocolFailure("entry %d is offered after %d", e.GetNumber(), last)
		}
		last = e.Number
		if err := r.count(1); err != nil {
			return err
		}
		w := &guestv1.Wanted{Number: e.Number}
		if e.Mode&modeType == modeRegular && e.HardLink == nil {
			skip, err := r.look(e, w, m.GetCrc())
			if err != nil {
				return err
			}
			if skip {
				r.countSkipped(e)
				continue
			}
		}
		d.Wanted = append(d.Wanted, w)
	}
	if len(d.Wanted) == 0 {
		r.at(m.Entries[len(m.Entries)-1])
	}
	return r.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Decision{Decision: d}})
}

// look reports whether a file is here, and otherwise fills in what is here of
// it.
func (r *receiver) look(e *guestv1.Entry, w *guestv1.Wanted, crc bool) (skip bool, err error) {
	elements, err := splitPath(e.Path)
	if err != nil || int(e.Source) >= len(r.names) {
		return false, nil // it is told when it comes
	}
	if first := r.names[e.Source]; first != "" {
		elements = append([]string{first}, elements...)
	}
	if len(elements) == 0 {
		return false, nil
	}
	root := r.base.root
	if r.cfg.Denied.file(root, strings.Join(elements, "/")) != nil {
		return false, nil // it is told when it comes
	}
	info, err := root.Lstat(strings.Join(elements, "/"))
	if err == nil && r.cfg.Options.GetNoReplace() {
		return true, nil
	}
	if err == nil && (r.cfg.Skip || r.cfg.Memory.has(e.Source, e.Path)) && info.Mode().IsRegular() && uint64(info.Size()) == e.Size && sameTime(info.ModTime(), modified(e)) {
		if !r.cfg.Options.GetChecksum() {
			return true, nil
		}
		if s, err := r.sumOfFile(root, strings.Join(elements, "/"), e.Size); err == nil && s.equal(sum{sha256: e.Sha256}) {
			return true, nil
		}
	}
	if !r.cfg.Resume {
		return false, nil
	}
	last := len(elements) - 1
	temp := tempName(r.cfg.Transfer, elements[last])
	f, err := openPartial(root, strings.Join(append(elements[:last:last], temp), "/"))
	if err != nil {
		return false, nil
	}
	defer f.Close()
	info, err = f.Stat()
	if err != nil || info.Size() == 0 || uint64(info.Size()) > e.Size {
		return false, nil
	}
	dir := r.base.path
	for _, name := range elements[:last] {
		dir = joinPath(dir, name)
	}
	hash := r.cfg.Memory.rollingFor(fileKey{path: joinPath(dir, temp)}, r.crc && crc)
	if err := hash.advance(f, uint64(info.Size()), r.ctx.Err); err != nil {
		if r.ctx.Err() != nil {
			return false, cut(err)
		}
		return false, nil
	}
	s := hash.sum()
	w.Offset, w.Sha256, w.Crc = uint64(info.Size()), s.sha256, s.crc
	r.offered[e.Number] = w.Offset
	return false, nil
}

// sumOfFile returns the SHA-256 of a file that is here.
func (r *receiver) sumOfFile(root *os.Root, path string, size uint64) (sum, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return sum{}, err
	}
	defer f.Close()
	hash := newRolling(false)
	if err := hash.advance(f, size, r.ctx.Err); err != nil {
		return sum{}, err
	}
	return hash.sum(), nil
}
