package archive

import (
	"errors"
	"io"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// sendReader sends what can be read once, as a file whose size is not known before its
// end. Nothing else may read it meanwhile.
func (s *sender) sendReader(it *item) error {
	e := it.entry
	buf := make([]byte, PieceBytes)
	n, err := io.ReadFull(it.reader, buf)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if n <= smallFile {
			setContents(e, buf[:n], s.crc)
			s.done(Done{Size: e.Size})
			return s.add(e)
		}
	case err != nil:
		return s.failed(e, failed("read", it.path, err))
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.room(0); err != nil {
		return err
	}
	e.SizeUnknown = true
	s.note(e)
	s.done(Done{Files: 1, Path: string(e.Path)})
	if err := s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: e, Crc: s.crc}}}); err != nil {
		return err
	}
	hash := newRolling(s.crc)
	offset := uint64(0)
	for {
		if n > 0 {
			s.done(Done{Size: uint64(n)})
			if err := s.sendPiece(hash, offset, buf[:n]); err != nil {
				return err
			}
			offset += uint64(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return s.fileFailed(e, failed("read", it.path, err))
		}
		n, err = it.reader.Read(buf)
	}
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: fileEnd(offset, hash.sum())}})
}
