package archive

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"io"
	"sync"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Rolling is the sum of what was read or written of a file so far, with the
// states it had at earlier offsets. It is used by one goroutine at a time.
type Rolling struct {
	sha    hash.Hash // nil: crc counts
	crc    uint64
	offset uint64
	marks  []mark
}

// mark is a state of a sum.
type mark struct {
	offset uint64
	sha    []byte
	crc    uint64
}

// maxMarks bounds the states that are kept: more than a window has of pieces.
const maxMarks = 128

// newRolling returns one that makes CRCs, or a SHA-256.
func newRolling(crc bool) *Rolling {
	if crc {
		return &Rolling{}
	}
	return &Rolling{sha: sha256.New()}
}

// isCRC reports whether it makes CRCs.
func (r *Rolling) isCRC() bool { return r.sha == nil }

// write goes on with p.
func (r *Rolling) write(p []byte) {
	if r.isCRC() {
		r.crc = updateCRC(r.crc, p)
	} else {
		r.sha.Write(p)
	}
	r.offset += uint64(len(p))
}

// alongside goes on with p while f runs, which may read p too, and returns what f
// does.
func (r *Rolling) alongside(p []byte, f func() error) error {
	if r.isCRC() || len(p) < worthSplitting {
		r.write(p)
		return f()
	}
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		r.write(p)
	}()
	err := f()
	<-hashed
	return err
}

// worthSplitting is how many bytes take longer to hash than a goroutine to start.
const worthSplitting = 32 << 10

var zeros [64 << 10]byte

// hole goes on with n zero bytes.
func (r *Rolling) hole(n uint64) {
	for n > 0 {
		k := min(n, uint64(len(zeros)))
		r.write(zeros[:k])
		n -= k
	}
}

// sum returns the sum so far.
func (r *Rolling) sum() sum {
	if r.isCRC() {
		crc := r.crc
		return sum{crc: &crc}
	}
	return sum{sha256: r.sha.Sum(nil)}
}

// mark keeps the state of now.
func (r *Rolling) mark() {
	m := mark{offset: r.offset, crc: r.crc}
	if !r.isCRC() {
		state, err := r.sha.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return // it is computed again if it is needed
		}
		m.sha = state
	}
	if len(r.marks) == maxMarks {
		copy(r.marks, r.marks[1:])
		r.marks = r.marks[:maxMarks-1]
	}
	r.marks = append(r.marks, m)
}

// rewind goes back to the last state kept at or before offset.
func (r *Rolling) rewind(offset uint64) {
	if r.offset <= offset {
		return
	}
	for len(r.marks) > 0 {
		last := r.marks[len(r.marks)-1]
		if last.offset <= offset && r.restore(last) {
			return
		}
		r.marks = r.marks[:len(r.marks)-1]
	}
	marks := r.marks
	*r = *newRolling(r.isCRC())
	r.marks = marks
}

// restore goes back to a state, if it can.
func (r *Rolling) restore(m mark) bool {
	if r.isCRC() {
		r.crc, r.offset = m.crc, m.offset
		return true
	}
	h := sha256.New()
	if h.(encoding.BinaryUnmarshaler).UnmarshalBinary(m.sha) != nil {
		return false
	}
	r.sha, r.offset = h, m.offset
	return true
}

// advance reads f until the hash is of the first offset bytes. It may be called
// again after it failed, and goes on where it was.
func (r *Rolling) advance(f io.ReaderAt, offset uint64, stop func() error) error {
	r.rewind(offset)
	buf := make([]byte, 256<<10)
	for n := 1; r.offset < offset; n++ {
		if err := stop(); err != nil {
			return err
		}
		k, err := f.ReadAt(buf[:min(uint64(len(buf)), offset-r.offset)], int64(r.offset))
		r.write(buf[:k])
		if n%64 == 0 {
			r.mark()
		}
		if k == 0 {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	r.mark()
	return nil
}

// Memory is what a side remembers of a transfer from one call to the next: the
// sum of the file that was under way, what was made last, what was counted, and how
// much the sender may still send. The zero value remembers nothing. One transfer at a
// time uses it.
type Memory struct {
	mu      sync.Mutex
	key     fileKey
	rolling *Rolling
	left    *allowance // nil: nothing was received yet
	made    recent
	counts  *guestv1.Finished // of all tries of a run
	counted recent            // what is in counts
}

// recent is a set of entries that forgets the oldest.
type recent struct {
	has   map[madeKey]bool
	order []madeKey // the oldest first
}

// add reports whether an entry is new.
func (r *recent) add(key madeKey) bool {
	if r.has[key] {
		return false
	}
	if r.has == nil {
		r.has = make(map[madeKey]bool)
	}
	if len(r.order) == maxMade {
		delete(r.has, r.order[0])
		r.order = r.order[1:]
	}
	r.has[key] = true
	r.order = append(r.order, key)
	return true
}

// madeKey is the hash of an entry's position.
type madeKey [16]byte

// maxMade bounds the entries that are remembered: more than may be sent and not
// acknowledged, which are those that another try may send again.
const maxMade = 2 * maxUnderway

func newMadeKey(source uint32, path []byte) madeKey {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, source), path...))
	return madeKey(sum[:16])
}

// add remembers that the receiver has made a file or directory. A nil Memory remembers
// nothing.
func (m *Memory) add(source uint32, path []byte) {
	if m == nil {
		return
	}
	key := newMadeKey(source, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made.add(key)
}

// count returns the counts of all tries of a run, which the first try begins.
func (m *Memory) count(attempt uint32) *guestv1.Finished {
	m.mu.Lock()
	defer m.mu.Unlock()
	if attempt <= 1 || m.counts == nil {
		m.counts, m.counted = &guestv1.Finished{}, recent{}
	}
	return m.counts
}

// first reports whether an entry was not counted before, and has it counted.
func (m *Memory) first(source uint32, path []byte) bool {
	if m == nil {
		return true
	}
	key := newMadeKey(source, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counted.add(key)
}

// has reports whether the receiver has made a file or directory not long ago.
func (m *Memory) has(source uint32, path []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.made.has) > 0 && m.made.has[newMadeKey(source, path)]
}

// allowance is what a sender may still send.
type allowance struct{ entries, bytes uint64 }

func newAllowance(entries, bytes uint64) *allowance {
	a := &allowance{entries, bytes}
	if entries == 0 {
		a.entries = DefaultMaxEntries
	}
	if bytes == 0 {
		a.bytes = DefaultMaxBytes
	}
	return a
}

// allowance returns what is left of the one that the first try began with: a sender
// that cuts the connection is not given more.
func (m *Memory) allowance(entries, bytes uint64) *allowance {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == nil {
		m.left = newAllowance(entries, bytes)
	}
	return m.left
}

// fileKey tells whether a file is the one of before.
type fileKey struct {
	path           string
	size           uint64
	modified       time.Time
	changed        int64
	device, number uint64
}

// rollingFor returns the sum of before, or a new one if that was of another
// file or kind, and remembers it.
func (m *Memory) rollingFor(key fileKey, crc bool) *Rolling {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rolling == nil || m.key != key || m.rolling.isCRC() != crc {
		m.key, m.rolling = key, newRolling(crc)
	}
	return m.rolling
}

// forget forgets all.
func (m *Memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key, m.rolling = fileKey{}, nil
}
