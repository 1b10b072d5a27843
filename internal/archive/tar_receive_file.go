package archive

import (
	"bytes"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// begin begins a file whose contents come in pieces, or goes on with one.
func (c *tarCall) begin(m *guestv1.FileStart) error {
	e := m.GetEntry()
	if err := c.in.next(e.GetNumber()); err != nil {
		return err
	}
	if err := c.keepAsked(e); err != nil {
		return err
	}
	has := c.in.offered[e.GetNumber()]
	switch {
	case e.GetMode()&modeType != modeRegular || e.GetHardLink() != nil || len(e.GetContents()) > 0:
		return protocolFailure("contents of what is no file")
	case e.GetSize() > 1<<62:
		return protocolFailure("a file of %d bytes", e.GetSize())
	case m.GetOffset() != 0 && m.GetOffset() != has:
		return protocolFailure("a file begins at byte %d", m.GetOffset())
	}
	if m.GetOffset() > 0 && c.file == nil {
		return protocolFailure("another file is sent before the one under way")
	}
	if m.GetOffset() > 0 {
		// has is of the file under way alone.
		if e.GetSize() != c.file.size {
			// It grew meanwhile, and its header has the size of before.
			c.in.discard = e.GetNumber()
			return c.abandon()
		}
		c.in.current = &file{entry: e}
		c.in.done(Done{Files: 1, Path: string(e.GetPath()), Size: e.GetSize() - m.GetOffset()})
		return nil
	}
	name, err := c.enter(e)
	if err != nil {
		c.in.discard = e.GetNumber()
		return c.refused(e, err)
	}
	if err := c.abandonFor(e); err != nil {
		return err
	}
	t := &tarFile{position: positionOf(e), name: name, size: e.GetSize(), hash: newRolling(m.GetCrc()), entry: e}
	if e.GetSizeUnknown() {
		t.unsized = new(pieces)
	} else {
		c.began = true
		h := c.header(e, name)
		h.Size = int64(e.GetSize())
		if err := c.tar.WriteHeader(h); err != nil {
			return writeArchive(err)
		}
	}
	c.file, c.in.current = t, &file{entry: e}
	c.in.done(Done{Files: 1, Path: string(e.GetPath()), Size: e.GetSize()})
	return nil
}

// piece takes in a piece of the file under way.
func (c *tarCall) piece() error {
	data := c.in.frame.Data
	offset, hole := c.in.frame.Varints[pieceOffset], c.in.frame.Varints[pieceHole]
	n := uint64(len(data))
	c.in.bytes += n
	if err := c.in.consume(n + min(hole, maxHole)); err != nil {
		return err
	}
	if c.in.current == nil {
		if c.in.discard != 0 {
			return c.in.count(btoi(n == 0))
		}
		return protocolFailure("a piece of no file")
	}
	t := c.file
	switch {
	case n > 4*PieceBytes || hole > maxHole || n > 0 && hole > 0 || n == 0 && hole == 0:
		return protocolFailure("a piece of %d bytes and a hole of %d", n, hole)
	case offset != t.offset:
		return protocolFailure("a piece at byte %d, want %d", offset, t.offset)
	case t.unsized != nil && offset+n+hole > maxUnsized:
		e := t.entry
		c.in.current, c.file, c.in.discard = nil, nil, e.GetNumber()
		return c.refused(e, newFailure("read", t.name, codes.ResourceExhausted, ReasonTooManyBytes, "a file whose size is not known before its end, and that has more than %d bytes", maxUnsized))
	case t.unsized == nil && (n+hole > t.size || offset > t.size-n-hole):
		return protocolFailure("%q has more than its %d bytes", t.position.GetPath(), t.size)
	}
	if hole > 0 {
		t.hash.hole(hole)
	} else {
		t.hash.write(data)
	}
	var err error
	switch {
	case t.unsized != nil:
		t.unsized.write(data)
		for left := hole; left > 0; left -= min(left, uint64(len(zeros))) {
			t.unsized.write(zeros[:min(left, uint64(len(zeros)))])
		}
	case hole > 0:
		err = c.zeros(hole)
	default:
		_, err = c.tar.Write(data)
	}
	t.offset += n + hole
	c.in.done(Done{Bytes: n + hole})
	return writeArchive(err)
}

// zeros writes n zero bytes to the file under way.
func (c *tarCall) zeros(n uint64) error {
	for n > 0 {
		k, err := c.tar.Write(zeros[:min(n, uint64(len(zeros)))])
		if err != nil {
			return err
		}
		n -= uint64(k)
	}
	return nil
}

// end ends the file under way.
func (c *tarCall) end(m *guestv1.FileEnd) error {
	if c.in.current == nil {
		if c.in.discard == 0 {
			return protocolFailure("the end of no file")
		}
		c.in.discard = 0
		return nil
	}
	t, e := c.file, c.in.current.entry
	if m.GetSize() != t.offset || t.unsized == nil && t.offset != t.size {
		return protocolFailure("%q ends at byte %d of %d", e.GetPath(), m.GetSize(), t.size)
	}
	c.file, c.in.current = nil, nil
	c.passed(e)
	if !t.hash.sum().equal(endSum(m, t.hash.isCRC())) {
		return c.refused(e, hashMismatch(t.name))
	}
	if t.unsized != nil {
		if err := c.write(c.header(t.entry, t.name), t.unsized.all...); err != nil {
			return err
		}
	}
	c.files++
	if m.GetChanged() {
		c.in.done(Done{Failure: changedFailure(t.name), Remote: true})
	}
	return nil
}

// remoteFailure notes that the sender could not read a file. Of what was written
// of it nothing can be taken back: the rest is zeros, as with tar(1).
func (c *tarCall) remoteFailure(m *guestv1.FileFailure) error {
	switch {
	case c.in.current != nil && m.GetEntry() == c.in.current.entry.GetNumber():
		c.passed(c.in.current.entry)
		c.in.current = nil
		t := c.file
		c.file = nil
		if err := c.pad(t); err != nil {
			return err
		}
	case c.in.current != nil:
		return protocolFailure("a failure of another file than the one under way")
	case c.in.discard != 0 && m.GetEntry() == c.in.discard:
		c.in.discard = 0
		return nil
	default:
		if err := c.in.next(m.GetEntry()); err != nil {
			return err
		}
	}
	c.failed++
	c.in.done(Done{Failure: FailureOf(m), Remote: true})
	return nil
}

// pad gives a file that ends early the size that its header says.
func (c *tarCall) pad(t *tarFile) error {
	if t == nil || t.unsized != nil {
		return nil
	}
	return writeArchive(c.zeros(t.size - t.offset))
}

// abandonFor ends a file that was under way when the connection was lost, if
// another entry comes now, or the same from its beginning: then the archive has
// it again, and the later one counts.
func (c *tarCall) abandonFor(e *guestv1.Entry) error {
	t := c.file
	if t != nil && t.position.GetSource() == e.GetSource() && bytes.Equal(t.position.GetPath(), e.GetPath()) {
		c.file = nil
		return c.pad(t)
	}
	return c.abandon()
}

// abandon ends a file that was under way and is not sent any more.
func (c *tarCall) abandon() error {
	t := c.file
	if t == nil {
		return nil
	}
	c.file = nil
	c.failed++
	c.in.done(Done{Failure: newFailure("read", t.name, codes.Aborted, ReasonChanged, "it changed while the connection was lost: the archive has zeros from byte %d on", t.offset), Remote: true})
	return c.pad(t)
}
