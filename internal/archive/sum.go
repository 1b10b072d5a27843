package archive

import (
	"bytes"
	"crypto/sha256"
	"hash/crc32"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// sum says what contents are: by their SHA-256 or, where that is to find damage alone,
// by two CRCs, which cost a tenth of it. Different contents have the same two CRCs as
// seldom as the same one of 64 bits.
type sum struct {
	sha256 []byte
	crc    *uint64
}

// equal reports whether two sums are of one kind, and the same.
func (s sum) equal(other sum) bool {
	if s.crc != nil && other.crc != nil {
		return *s.crc == *other.crc
	}
	return s.crc == nil && other.crc == nil && len(s.sha256) == sha256.Size && bytes.Equal(s.sha256, other.sha256)
}

// sumOf returns the sum of contents: CRCs, or a SHA-256.
func sumOf(contents []byte, crc bool) sum {
	if crc {
		n := updateCRC(0, contents)
		return sum{crc: &n}
	}
	sha := sha256.Sum256(contents)
	return sum{sha256: sha[:]}
}

// entrySum returns the sum that an entry has.
func entrySum(e *guestv1.Entry) sum { return sum{e.GetSha256(), e.Crc} }

// setContents gives an entry its whole contents, and their sum.
func setContents(e *guestv1.Entry, contents []byte, crc bool) {
	s := sumOf(contents, crc)
	e.Size, e.Contents, e.Sha256, e.Crc = uint64(len(contents)), contents, s.sha256, s.crc
}

// hasContents reports whether an entry's contents are those that were sent.
func hasContents(e *guestv1.Entry) bool {
	return uint64(len(e.GetContents())) == e.GetSize() && sumOf(e.GetContents(), e.Crc != nil).equal(entrySum(e))
}

// endSum returns the sum at the end of a file, whose start says which kind it is.
func endSum(m *guestv1.FileEnd, crc bool) sum {
	if crc {
		return sum{crc: &m.Crc}
	}
	return sum{sha256: m.GetSha256()}
}

// fileEnd returns the end of a file.
func fileEnd(size uint64, s sum) *guestv1.FileEnd {
	m := &guestv1.FileEnd{Size: size, Sha256: s.sha256}
	if s.crc != nil {
		m.Crc = *s.crc
	}
	return m
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// updateCRC goes on with the two CRCs: CRC-32C in the lower half, that of IEEE 802.3 in
// the upper one.
func updateCRC(crc uint64, p []byte) uint64 {
	return uint64(crc32.Update(uint32(crc>>32), crc32.IEEETable, p))<<32 | uint64(crc32.Update(uint32(crc), castagnoli, p))
}
