package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TarSendConfig is what SendTar sends of an archive.
type TarSendConfig struct {
	Options *guestv1.TransferOptions
	// Resume sends no file that the receiver has with its size and time of
	// modification.
	Resume bool
	// OutsideLinks allows symbolic links to lead out of the destination.
	OutsideLinks bool
	// Xattr reports whether an extended attribute may be sent. nil: none.
	Xattr func(name string) bool
	// OnDone is as in SendConfig.
	OnDone func(Done)
}

// SendTar sends what a tar archive has on st, as Send sends files: to a receiver
// that takes entries in any order. The archive is read once, as it is sent, to
// its end and what may follow that.
//
// The archive is closed when the stream ends, which has to end a Read of it.
//
// It is not trusted. What OnDone is told was not sent: names that are
// absolute or have "..", links that lead out of the destination, devices and
// FIFOs. If the archive ends too early, or is none, that is the last failure: all
// files that came whole before it are sent.
func SendTar(st Stream, archive io.ReadCloser, cfg *TarSendConfig) (*guestv1.Finished, error) {
	in := &tarInput{Reader: bufio.NewReaderSize(archive, PieceBytes)}
	t := &tarSender{cfg: cfg, in: in, tar: tar.NewReader(in)}
	sc := &SendConfig{Options: cfg.Options, Resume: cfg.Resume, OnDone: cfg.OnDone}
	return run(st, sc, func(s *sender) error {
		t.sender = s
		stop := context.AfterFunc(s.ctx, func() { archive.Close() })
		defer stop()
		err := t.run()
		if s.ctx.Err() != nil {
			err = s.ctx.Err() // whatever came of it
		}
		return err
	})
}

// tarInput notes whether its end was met, and whether there was anything.
type tarInput struct {
	*bufio.Reader
	ended bool
	n     int64
	err   error // other than the end
}

func (r *tarInput) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	if errors.Is(err, io.EOF) {
		r.ended = true
	} else if err != nil {
		r.err = err
	}
	return n, err
}

type tarSender struct {
	*sender
	cfg *TarSendConfig
	in  *tarInput
	tar *tar.Reader

	held      []*guestv1.Entry // with Resume: not offered yet
	heldNames map[string]bool
	heldBytes int
}

// tarBlock is the size of a header.
const tarBlock = 512

// heldMost bounds the contents that are held until they are offered.
const heldMost = 2 << 20

// run sends the entries of the archive until it ends.
func (t *tarSender) run() error {
	if head, err := t.in.Peek(6); err == nil || errors.Is(err, io.EOF) {
		if kind := compressed(head); kind != "" {
			f := newFailure("read", "the archive", codes.InvalidArgument, ReasonBadArchive, "it is compressed with %s", kind)
			f.Remedy = "decompress it on the way: " + kind + " -dc FILE | ..."
			return t.failed(&guestv1.Entry{}, f)
		}
	}
	for {
		h, err := t.tar.Next()
		if errors.Is(err, io.EOF) && t.in.ended {
			err = io.ErrUnexpectedEOF // without an end of its own
		}
		if errors.Is(err, io.EOF) {
			// What pads the archive is not left to whoever writes it.
			if _, err = io.Copy(io.Discard, t.in); err == nil {
				return t.offerHeld()
			}
		}
		if err == nil {
			err = t.entry(h)
			if bad, ok := errors.AsType[*inputError](err); ok {
				if bad.told {
					return nil
				}
				err = bad.err
			} else if err != nil {
				return err
			} else {
				continue
			}
		}
		if t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		if err := t.offerHeld(); err != nil {
			return err
		}
		return t.failed(&guestv1.Entry{}, t.readFailure(err))
	}
}

// inputError is a failure to read the archive.
type inputError struct {
	err  error
	told bool // of a file that it has cut off
}

func (e *inputError) Error() string { return "the archive cannot be read" }

func (t *tarSender) readFailure(err error) *Failure {
	switch {
	case t.in.err != nil:
		return failed("read", "the archive", t.in.err)
	case t.in.n == 0:
		return newFailure("read", "the archive", codes.InvalidArgument, ReasonBadArchive, "there is nothing in it, not even its end")
	case t.number == 0 && (errors.Is(err, tar.ErrHeader) || t.in.n < tarBlock):
		return newFailure("read", "the archive", codes.InvalidArgument, ReasonBadArchive, "it is no tar archive")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return newFailure("read", "the archive", codes.DataLoss, ReasonBadArchive, "it ends too early, after %d bytes", t.in.n)
	}
	return newFailure("read", "the archive", codes.DataLoss, ReasonBadArchive, "it is damaged at byte %d: %v", t.in.n, err)
}

// compressed says what a file is compressed with that begins so.
func compressed(head []byte) string {
	for _, m := range []struct{ magic, kind string }{{"\x1f\x8b", "gzip"}, {"BZh", "bzip2"}, {"\xfd7zXZ", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.kind
		}
	}
	return ""
}

// entry sends one entry, or tells why not.
func (t *tarSender) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // such as git-archive's
	}
	e := &guestv1.Entry{Mode: uint32(h.Mode) & 0o7777}
	setModified(e, h.ModTime)
	t.begin(e)
	path, f := tarPath(h.Name)
	e.Path = []byte(path)
	if f == nil {
		f = t.describe(e, h)
	}
	if f != nil {
		if err := t.offerHeld(); err != nil {
			return err
		}
		return t.failed(e, f)
	}
	if t.cfg.Options.GetArchive() {
		e.Uid, e.Gid, e.User, e.Group = uint32(h.Uid), uint32(h.Gid), []byte(h.Uname), []byte(h.Gname)
		for name, value := range h.PAXRecords {
			name, ok := strings.CutPrefix(name, tarXattr)
			if ok && t.cfg.Xattr != nil && t.cfg.Xattr(name) {
				e.Xattrs = append(e.Xattrs, &guestv1.TransferXattr{Name: []byte(name), Value: []byte(value)})
			}
		}
	}
	if t.heldNames[path] {
		// The same name again: this one counts, whatever is there now.
		if err := t.offerHeld(); err != nil {
			return err
		}
	}
	isFile := e.Mode&modeType == modeRegular && e.HardLink == nil
	if isFile && h.Size > smallFile {
		return t.large(e, h)
	}
	if isFile {
		contents := make([]byte, h.Size)
		if _, err := io.ReadFull(t.tar, contents); err != nil {
			return &inputError{err: err}
		}
		setContents(e, contents, t.crc)
	}
	if t.cfg.Resume {
		t.held = append(t.held, e)
		t.heldBytes += len(e.Contents)
		if t.heldNames == nil {
			t.heldNames = make(map[string]bool)
		}
		t.heldNames[path] = true
		if len(t.held) >= batchEntries || t.heldBytes >= heldMost {
			return t.offerHeld()
		}
		return nil
	}
	t.done(Done{Size: e.Size})
	return t.add(e)
}

// describe fills in what kind of file an entry is, or says why it is not sent.
func (t *tarSender) describe(e *guestv1.Entry, h *tar.Header) *Failure {
	path := string(e.Path)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= modeRegular
		if path == "" {
			return newFailure("create", h.Name, codes.InvalidArgument, ReasonBadName, "the top of the archive is a file")
		}
	case tar.TypeDir:
		e.Mode |= modeDir
	case tar.TypeSymlink:
		e.Mode = modeLink | 0o777
		e.LinkTarget = []byte(h.Linkname)
		if len(h.Linkname) > maxTarget {
			return newFailure("symlink", path, codes.InvalidArgument, ReasonNameTooLong, "it leads to a name of %d bytes", len(h.Linkname))
		}
		if !t.cfg.OutsideLinks {
			return outsideLink(strings.Count(path, "/"), path, e.LinkTarget)
		}
	case tar.TypeLink:
		target, f := tarPath(h.Linkname)
		if f != nil {
			return f
		}
		if target == "" {
			return newFailure("link", path, codes.InvalidArgument, ReasonBadName, "it is another name of the top")
		}
		e.Mode |= modeRegular
		e.HardLink = &guestv1.Position{Path: []byte(target)}
	case tar.TypeChar, tar.TypeBlock:
		return newFailure("create", path, codes.PermissionDenied, ReasonSpecial, "a device is not copied")
	case tar.TypeFifo:
		return newFailure("create", path, codes.PermissionDenied, ReasonSpecial, "a FIFO is not copied")
	default:
		return newFailure("create", path, codes.Unimplemented, ReasonSpecial, "an entry of the type %q", h.Typeflag)
	}
	return nil
}

// tarPath returns the name of an entry as a path below the destination, which is
// empty for that itself.
func tarPath(name string) (string, *Failure) {
	if strings.HasPrefix(name, "/") {
		return "", newFailure("receive", name, codes.InvalidArgument, ReasonBadName, "an absolute name in the archive")
	}
	var elements []string
	for _, e := range strings.Split(name, "/") {
		switch e {
		case "", ".":
		case "..":
			return "", newFailure("receive", name, codes.InvalidArgument, ReasonBadName, `a name with ".." in the archive`)
		default:
			elements = append(elements, e)
		}
	}
	path := strings.Join(elements, "/")
	if _, err := splitPath([]byte(path)); err != nil {
		f, _ := errors.AsType[*Failure](err)
		return "", f
	}
	return path, nil
}

// large sends a file in pieces.
func (t *tarSender) large(e *guestv1.Entry, h *tar.Header) error {
	e.Size = uint64(h.Size)
	if t.cfg.Resume {
		// What the receiver has of an unfinished file is of no use: what comes
		// before it cannot be read again if it turns out to be another.
		if wanted, err := t.offer(e); err != nil || !wanted {
			return err // Next goes on after what is not wanted
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.room(0); err != nil {
		return err
	}
	t.note(e)
	t.done(Done{Files: 1, Path: string(e.Path), Size: e.Size})
	if err := t.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: e, Crc: t.crc}}}); err != nil {
		return err
	}
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
	hash := newRolling(t.crc)
	buf := make([]byte, PieceBytes)
	for offset := uint64(0); offset < e.Size; {
		n, err := io.ReadFull(t.tar, buf[:min(uint64(len(buf)), e.Size-offset)])
		if err != nil {
			if sendErr := t.fileFailed(e, t.readFailure(io.ErrUnexpectedEOF)); sendErr != nil {
				return sendErr
			}
			return &inputError{told: true}
		}
		if sparse && allZero(buf[:n]) {
			err = t.sendHole(hash, offset, uint64(n))
		} else {
			err = t.sendPiece(hash, offset, buf[:n])
		}
		if err != nil {
			return err
		}
		offset += uint64(n)
	}
	return t.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: fileEnd(e.Size, hash.sum())}})
}

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// offerHeld offers the entries that are held, and sends those that are wanted.
func (t *tarSender) offerHeld() error {
	_, err := t.offer(nil)
	return err
}

// offer offers the entries that are held, and one more if it is not nil, of
// which it reports whether it is wanted. It sends those of the others that are.
func (t *tarSender) offer(also *guestv1.Entry) (bool, error) {
	entries := t.held
	t.held, t.heldBytes = nil, 0
	clear(t.heldNames)
	o := &guestv1.Offer{}
	for _, e := range entries {
		bare := &guestv1.Entry{Number: e.Number, Path: e.Path, Mode: e.Mode, Size: e.Size, ModifiedUnixNanos: e.ModifiedUnixNanos, ModifiedUnixSeconds: e.ModifiedUnixSeconds, HardLink: e.HardLink, Sha256: e.Sha256}
		o.Entries = append(o.Entries, bare)
	}
	if also != nil {
		o.Entries = append(o.Entries, also)
	}
	if len(o.Entries) == 0 {
		return false, nil
	}
	wanted, err := t.askFor(o)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !wanted[e.Number] {
			continue
		}
		t.done(Done{Size: e.Size})
		if err := t.add(e); err != nil {
			return false, err
		}
	}
	return wanted[also.GetNumber()], nil
}

// askFor returns the numbers of the entries of an offer that are wanted.
func (s *sender) askFor(o *guestv1.Offer) (map[uint64]bool, error) {
	if err := s.flush(); err != nil {
		return nil, err
	}
	if err := s.room(0); err != nil {
		return nil, err
	}
	if err := s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Offer{Offer: o}}); err != nil {
		return nil, err
	}
	select {
	case d := <-s.decisions:
		wanted := make(map[uint64]bool)
		for _, w := range d.GetWanted() {
			wanted[w.GetNumber()] = true
		}
		return wanted, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}
