package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TarConfig is what a TarWriter writes.
type TarConfig struct {
	// Names are what the sources are called; empty for one whose contents are at
	// the top of the archive.
	Names []string
	// Xattrs writes extended attributes, KeepSetuid set-user-id and set-group-id
	// bits.
	Xattrs, KeepSetuid bool

	// The most that is taken, in all calls of Receive.
	MaxEntries uint64 // 0: DefaultMaxEntries
	MaxBytes   uint64 // 0: DefaultMaxBytes

	// OnDone is as in ReceiveConfig.
	OnDone func(Done)
}

// TarWriter receives a transfer as a tar archive, over as many calls as it takes.
// It is used by one goroutine at a time.
//
// The sender is not trusted: there is no name in the archive that is absolute or
// has "..", each but the first is in a directory that is in the archive before it,
// and none is there twice, unless its file changed between two calls. Symbolic
// links are written as they are: they are whoever unpacks the archive's to judge.
type TarWriter struct {
	cfg   *TarConfig
	out   *bufio.Writer
	tar   *tar.Writer
	began bool // an entry was written

	reached *guestv1.Position // the last entry that is done; nil: none
	dirs    []string          // down to where the last entry is
	last    []string          // in each of them, and at the top, the last name
	from    uint32            // the source of the last entry
	top     bool              // that source's own directory was written, if it has no name
	file    *tarFile          // under way, or nil
	files   uint64
	failed  uint64
	left    *allowance
}

// tarFile is a file whose contents come in pieces.
type tarFile struct {
	position *guestv1.Position
	name     string
	size     uint64
	offset   uint64
	hash     *Rolling
	unsized  *pieces // what has no size before its end
	entry    *guestv1.Entry
}

// maxUnsized bounds a file whose size is not known before its end. It is held, since
// its size comes before it in an archive.
const maxUnsized = 16 << 20

// pieces hold bytes in pieces of one size, which are not copied when there are more.
type pieces struct{ all [][]byte }

func (p *pieces) write(b []byte) {
	for len(b) > 0 {
		last := len(p.all) - 1
		if last < 0 || len(p.all[last]) == cap(p.all[last]) {
			p.all = append(p.all, make([]byte, 0, 64<<10))
			last++
		}
		n := min(len(b), cap(p.all[last])-len(p.all[last]))
		p.all[last] = append(p.all[last], b[:n]...)
		b = b[n:]
	}
}

// NewTarWriter returns a TarWriter that writes to w.
func NewTarWriter(w io.Writer, cfg *TarConfig) *TarWriter {
	out := bufio.NewWriterSize(w, PieceBytes)
	return &TarWriter{cfg: cfg, out: out, tar: tar.NewWriter(out), left: newAllowance(cfg.MaxEntries, cfg.MaxBytes)}
}

// Began reports whether anything of the archive was written.
func (t *TarWriter) Began() bool { return t.began }

// Close writes the end of the archive.
func (t *TarWriter) Close() error {
	err := t.tar.Close()
	if err == nil {
		err = t.out.Flush()
	}
	return writeArchive(err)
}

func writeArchive(err error) error {
	if err == nil {
		return nil
	}
	return failed("write", "the archive", err)
}

// tarCall is one call of a TarWriter. Of the receiver it is what has to do with
// messages and limits.
type tarCall struct {
	*TarWriter
	in receiver
}

// Receive receives what comes on st. The opening messages have been exchanged but
// for ready. After an error that is ErrCut another call goes on, which has to be one
// in which the sender offers what it has.
func (t *TarWriter) Receive(st Stream) (*guestv1.Finished, error) {
	c := &tarCall{TarWriter: t}
	c.in = receiver{st: st, cfg: &ReceiveConfig{OnDone: t.cfg.OnDone}, ctx: st.Context(), finished: &guestv1.Finished{}, frame: newSenderFrame(), left: t.left}
	defer c.in.frame.Free()
	err := c.run()
	if errors.Is(err, ErrCut) && c.in.position != nil {
		c.in.done(Done{Position: c.in.position})
	}
	if err != nil {
		return nil, err
	}
	c.in.finished.Files, c.in.finished.Failed = t.files, t.failed
	if err := c.in.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Finished{Finished: c.in.finished}}); err != nil {
		return nil, err
	}
	return c.in.finished, nil
}

func (c *tarCall) run() error {
	seen := make(map[string]bool)
	for _, name := range c.cfg.Names {
		if name == "" {
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
	if err := c.in.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Ready{Ready: &guestv1.Ready{Window: Window, Crc: true}}}); err != nil {
		return err
	}
	for {
		c.in.frame.Control = nil
		if err := c.in.st.RecvMsg(c.in.frame); err != nil {
			return cut(err)
		}
		end, err := c.in.take(c)
		if err != nil || end {
			return err
		}
		if err := c.in.acknowledge(false); err != nil {
			return err
		}
	}
}

// finish ends the archive: a file that was under way when the connection was lost is
// gone.
func (c *tarCall) finish() error { return c.abandon() }

// keepAsked takes out of an entry what is not to be in the archive.
func (c *tarCall) keepAsked(e *guestv1.Entry) error {
	if !c.cfg.Xattrs {
		e.Xattrs = nil
	}
	if len(e.GetUser()) > maxName || len(e.GetGroup()) > maxName {
		e.User, e.Group = nil, nil
	}
	return keepXattrs(e, func(name string) bool {
		return strings.HasPrefix(name, "user.") && !strings.ContainsAny(name, "=\x00")
	})
}

// passed notes that an entry is done.
func (c *tarCall) passed(e *guestv1.Entry) {
	c.in.at(e)
	c.reached = c.in.position
}

// enter returns the name that an entry has in the archive.
func (c *tarCall) enter(e *guestv1.Entry) (name string, err error) {
	names := c.cfg.Names
	if int(e.GetSource()) >= len(names) || e.GetSource() < c.from {
		return "", protocolFailure("an entry of source %d", e.GetSource())
	}
	path, err := splitPath(e.GetPath())
	if err != nil {
		return "", err
	}
	isDir := e.GetMode()&modeType == modeDir && e.GetHardLink() == nil
	prefix := "./"
	if first := names[e.GetSource()]; first != "" {
		prefix, path = "", append([]string{first}, path...)
	}
	if e.GetSource() != c.from {
		c.from, c.dirs, c.last, c.top = e.GetSource(), nil, nil, false
	}
	if len(path) == 0 {
		if !isDir || c.top {
			return "", protocolFailure("the top is no directory, or is there twice")
		}
		c.top = true
		return prefix, nil
	}
	parents, base := path[:len(path)-1], path[len(path)-1]
	if len(parents) > len(c.dirs) || !slices.Equal(parents, c.dirs[:len(parents)]) {
		return "", protocolFailure("%q comes before its directory", e.GetPath())
	}
	name = prefix + strings.Join(path, "/")
	if isDir {
		name += "/"
	}
	c.dirs = c.dirs[:len(parents)]
	if len(c.last) > len(parents) {
		// A file that changed since it was cut off is sent from its beginning.
		redone := c.file != nil && c.file.name == name
		if last := c.last[len(parents)]; base < last || base == last && !redone {
			return "", protocolFailure("%q comes after %q in a directory", base, last)
		}
	}
	c.last = append(c.last[:len(parents)], base)
	if isDir {
		c.dirs = append(c.dirs, base)
	}
	return name, nil
}

// header makes an entry's header.
func (c *tarCall) header(e *guestv1.Entry, name string) *tar.Header {
	mode := e.GetMode() &^ modeType & 0o7777
	if !c.cfg.KeepSetuid {
		mode &^= modeSetuid | modeSetgid
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Uid: int(e.GetUid()), Gid: int(e.GetGid()),
		ModTime: modified(e), Format: tar.FormatPAX}
	// Names that are none would be an error.
	if bytes.IndexByte(e.GetUser(), 0) < 0 {
		h.Uname = string(e.GetUser())
	}
	if bytes.IndexByte(e.GetGroup(), 0) < 0 {
		h.Gname = string(e.GetGroup())
	}
	for _, x := range e.GetXattrs() {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[tarXattr+string(x.GetName())] = string(x.GetValue())
	}
	return h
}

// tarXattr is what the names of extended attributes begin with in an archive
// (as star, GNU tar and bsdtar write them).
const tarXattr = "SCHILY.xattr."

// write writes an entry that is complete.
func (c *tarCall) write(h *tar.Header, contents ...[]byte) error {
	c.began = true
	for _, b := range contents {
		h.Size += int64(len(b))
	}
	err := c.tar.WriteHeader(h)
	for _, b := range contents {
		if err == nil && len(b) > 0 {
			_, err = c.tar.Write(b)
		}
	}
	return writeArchive(err)
}

// refused tells both sides of an entry that is not in the archive. It returns
// err if that ends the transfer.
func (c *tarCall) refused(e *guestv1.Entry, err error) error {
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Reason == ReasonProtocol {
		return err
	}
	c.failed++
	c.in.done(Done{Failure: f})
	return c.in.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Failure{Failure: f.message(e.GetNumber())}})
}

// entry writes what needs nothing more than its entry.
func (c *tarCall) entry(e *guestv1.Entry) error {
	if err := c.in.next(e.GetNumber()); err != nil {
		return err
	}
	if err := c.keepAsked(e); err != nil {
		return err
	}
	c.in.bytes += uint64(len(e.GetContents()))
	if err := c.in.consume(uint64(len(e.GetContents()))); err != nil {
		return err
	}
	name, err := c.enter(e)
	if err != nil {
		return c.refused(e, err)
	}
	if err := c.abandonFor(e); err != nil {
		return err
	}
	c.passed(e)
	h := c.header(e, name)
	var contents []byte
	switch mode := e.GetMode() & modeType; {
	case e.GetHardLink() != nil:
		h.Typeflag = tar.TypeLink
		if h.Linkname, err = c.linkName(e.GetHardLink()); err != nil {
			return c.refused(e, err)
		}
	case mode == modeDir:
		h.Typeflag = tar.TypeDir
	case mode == modeLink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(e.GetLinkTarget())
		if len(h.Linkname) == 0 || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
			return c.refused(e, newFailure("symlink", name, codes.InvalidArgument, ReasonBadName, "it leads to a name that cannot be"))
		}
	case mode == modeRegular:
		contents = e.GetContents()
		if !hasContents(e) {
			return c.refused(e, hashMismatch(name))
		}
	default:
		return c.refused(e, newFailure("create", name, codes.PermissionDenied, ReasonSpecial, "a %s is not copied", kindOf(e.GetMode())))
	}
	if err := c.write(h, contents); err != nil {
		return err
	}
	c.files++
	c.in.done(Done{Bytes: uint64(len(contents)), Size: uint64(len(contents)), Files: 1, Path: string(e.GetPath())})
	return nil
}

// linkName returns the name in the archive of an entry that came before.
func (c *tarCall) linkName(p *guestv1.Position) (string, error) {
	names := c.cfg.Names
	if int(p.GetSource()) >= len(names) {
		return "", protocolFailure("a hard link to source %d", p.GetSource())
	}
	path, err := splitPath(p.GetPath())
	if err != nil {
		return "", err
	}
	prefix := "./"
	if first := names[p.GetSource()]; first != "" {
		prefix, path = "", append([]string{first}, path...)
	}
	if len(path) == 0 {
		return "", protocolFailure("a hard link to the top")
	}
	return prefix + strings.Join(path, "/"), nil
}

// offer answers that all is wanted that comes after what is in the archive, and
// how much is there of the file that was under way. What has come into being
// before that since then, the archive has no place for.
func (c *tarCall) offer(m *guestv1.Offer) error {
	if len(m.GetEntries()) == 0 {
		return c.in.count(1)
	}
	c.in.offered = make(map[uint64]uint64)
	d := &guestv1.Decision{}
	last := c.in.number
	for _, e := range m.GetEntries() {
		if e.GetNumber() <= last {
			return protocolFailure("entry %d is offered after %d", e.GetNumber(), last)
		}
		last = e.GetNumber()
		if err := c.in.count(1); err != nil {
			return err
		}
		if c.reached != nil && comparePositions(positionOf(e), c.reached) <= 0 {
			continue
		}
		w := &guestv1.Wanted{Number: e.GetNumber()}
		if t := c.file; t != nil {
			order := comparePositions(positionOf(e), t.position)
			if order < 0 {
				continue
			}
			if order == 0 && t.unsized == nil && t.offset > 0 && (!t.hash.isCRC() || m.GetCrc()) && e.GetMode()&modeType == modeRegular && e.GetHardLink() == nil && e.GetSize() == t.size {
				s := t.hash.sum()
				w.Offset, w.Sha256, w.Crc = t.offset, s.sha256, s.crc
				c.in.offered[e.GetNumber()] = t.offset
			}
		}
		d.Wanted = append(d.Wanted, w)
	}
	return c.in.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Decision{Decision: d}})
}

// comparePositions compares positions by their order in a walk.
func comparePositions(a, b *guestv1.Position) int {
	if c := cmp.Compare(a.GetSource(), b.GetSource()); c != 0 {
		return c
	}
	elements := func(p *guestv1.Position) []string {
		if len(p.GetPath()) == 0 {
			return nil
		}
		return strings.Split(string(p.GetPath()), "/")
	}
	return slices.Compare(elements(a), elements(b))
}
