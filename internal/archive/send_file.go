package archive

import (
	"context"
	"errors"
	"io"
	"os"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// stream sends the contents of a file in pieces.
func (s *sender) stream(it *item, f *os.File, want *guestv1.Wanted) error {
	e := it.entry
	sys := sysOf(it.info)
	hash := s.cfg.Memory.rollingFor(fileKey{path: it.path, size: e.Size, modified: modified(e), changed: sys.changed, device: sys.device, number: sys.number}, s.crc)
	offset := s.agreed(hash, f, e, want)
	if err := hash.advance(f, offset, s.ctx.Err); err != nil {
		return s.readFailed(it, err)
	}
	if err := s.room(0); err != nil {
		return err
	}
	s.note(e)
	s.done(Done{Files: 1, Path: string(e.Path), Size: e.Size - min(offset, e.Size)})
	start := &guestv1.FileStart{Entry: e, Offset: offset, Crc: s.crc}
	if err := s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: start}}); err != nil {
		return err
	}
	sparse := sys.allocated < e.Size
	buf := make([]byte, PieceBytes)
	dataEnd := offset // data is known to reach so far
	for e.SizeUnknown || offset < e.Size {
		limit := uint64(len(buf))
		if !e.SizeUnknown {
			limit = min(limit, e.Size-offset)
		}
		if sparse && offset >= dataEnd {
			from, to := nextData(f, int64(offset), int64(e.Size))
			dataEnd = uint64(to)
			if hole := uint64(from) - offset; hole > 0 {
				if err := s.sendHole(hash, offset, hole); err != nil {
					return err
				}
				offset += hole
				continue
			}
		}
		if sparse {
			limit = min(limit, dataEnd-offset)
		}
		n, err := f.ReadAt(buf[:limit], int64(offset))
		if n > 0 {
			if err := s.sendPiece(hash, offset, buf[:n]); err != nil {
				return err
			}
			offset += uint64(n)
		}
		if err == nil || n > 0 && errors.Is(err, io.EOF) && !e.SizeUnknown {
			continue
		}
		if !errors.Is(err, io.EOF) {
			return s.fileFailed(e, failed("read", it.path, err))
		}
		if !e.SizeUnknown {
			return s.fileFailed(e, shrunk(it.path, offset, e.Size))
		}
		break
	}
	end := fileEnd(offset, hash.sum())
	if info, err := f.Stat(); err == nil && !e.SizeUnknown {
		if end.Changed = uint64(info.Size()) != e.Size || !info.ModTime().Equal(modified(e)); end.Changed {
			s.done(Done{Failure: changedFailure(it.path)})
		}
	}
	s.cfg.Memory.forget()
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: end}})
}

// readFailed is a failure before the receiver knows of the file.
func (s *sender) readFailed(it *item, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return s.failed(it.entry, failed("read", it.path, err))
}

// fileFailed is a failure in the midst of a file.
func (s *sender) fileFailed(e *guestv1.Entry, f *Failure) error {
	s.done(Done{Failure: f})
	s.cfg.Memory.forget()
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: f.message(e.Number)}})
}

// agreed returns the offset up to which both sides have the same.
func (s *sender) agreed(hash *Rolling, f *os.File, e *guestv1.Entry, want *guestv1.Wanted) uint64 {
	offset := want.GetOffset()
	if offset == 0 || offset > e.Size || e.SizeUnknown {
		return 0
	}
	if hash.advance(f, offset, s.ctx.Err) != nil || !hash.sum().equal(sum{want.GetSha256(), want.Crc}) {
		return 0
	}
	return offset
}

func (s *sender) sendPiece(hash *Rolling, offset uint64, data []byte) error {
	if err := s.room(uint64(len(data))); err != nil {
		return err
	}
	s.frame.Data = data
	s.frame.Varints[pieceOffset] = offset
	err := hash.alongside(data, s.sendFrame)
	hash.mark()
	s.frame.Data, s.frame.Varints[pieceOffset] = nil, 0
	return err
}

// sendHole tells of a range without data. Such ranges are short enough that the
// receiver, which has to hash them, comes to answer in between.
func (s *sender) sendHole(hash *Rolling, offset, size uint64) error {
	for size > 0 {
		n := min(size, maxHole)
		if err := s.room(0); err != nil {
			return err
		}
		hash.hole(n)
		hash.mark()
		s.frame.Varints[pieceOffset], s.frame.Varints[pieceHole] = offset, n
		err := s.sendFrame()
		s.frame.Varints[pieceOffset], s.frame.Varints[pieceHole] = 0, 0
		if err != nil {
			return err
		}
		s.done(Done{Bytes: n})
		offset, size = offset+n, size-n
	}
	return nil
}

// maxHole bounds the hole of one message.
const maxHole = 256 << 20

// offerItem puts a file among those to be offered.
func (s *sender) offerItem(it *item) error {
	s.begin(it.entry)
	if it.in != nil {
		it.in.refs++
	}
	s.offers = append(s.offers, it)
	if len(s.offers) >= batchEntries {
		return s.decide()
	}
	return nil
}

// decide offers what is collected, and sends what the receiver wants of it.
func (s *sender) decide() error {
	if len(s.offers) == 0 {
		return nil
	}
	items := s.offers
	s.offers = nil
	defer func() {
		for _, it := range items {
			if it.in != nil {
				it.in.release()
			}
		}
	}()
	offer := &guestv1.Offer{Crc: s.crc}
	for _, it := range items {
		if s.cfg.Options.GetChecksum() && it.reader == nil && it.entry.Mode&modeType == modeRegular && it.entry.HardLink == nil {
			it.entry.Sha256 = s.hashOf(it)
		}
		offer.Entries = append(offer.Entries, it.entry)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.room(0); err != nil {
		return err
	}
	if err := s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Offer{Offer: offer}}); err != nil {
		return err
	}
	var decision *guestv1.Decision
	select {
	case decision = <-s.decisions:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	next := 0
	for _, want := range decision.GetWanted() {
		for next < len(items) && items[next].entry.Number < want.GetNumber() {
			next++
		}
		if next == len(items) || items[next].entry.Number != want.GetNumber() {
			return protocolFailure("entry %d is wanted, which was not offered", want.GetNumber())
		}
		it := items[next]
		next++
		it.entry.Sha256, it.entry.Crc = nil, nil
		var err error
		if it.entry.Mode&modeType == modeRegular && it.entry.HardLink == nil {
			err = s.sendFile(it, want)
		} else {
			err = s.sendItem(it)
		}
		if err != nil {
			return err
		}
	}
	s.skippedTo(items[len(items)-1].entry)
	return nil
}

// skippedTo notes that all up to e is done, if nothing is under way.
func (s *sender) skippedTo(e *guestv1.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.underway) == 0 {
		s.done(Done{Position: &guestv1.Position{Source: e.Source, Path: e.Path}})
	}
}

// hashOf returns the SHA-256 of a whole file, or nil.
func (s *sender) hashOf(it *item) []byte {
	f, err := it.open()
	if err != nil {
		return nil
	}
	defer f.Close()
	hash := newRolling(false)
	if hash.advance(f, it.entry.Size, s.ctx.Err) != nil {
		return nil
	}
	return hash.sum().sha256
}
