package archive

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"io"
	"sync"
)

// Rolling is the SHA-256 of what was read or written of a file so far, with the
// states it had at earlier offsets. It is used by one goroutine at a time.
type Rolling struct {
	hash   hash.Hash
	offset uint64
	marks  []mark
}

// mark is a state of a hash.
type mark struct {
	offset uint64
	state  []byte
}

// maxMarks bounds the states that are kept: more than a window has of pieces.
const maxMarks = 128

func newRolling() *Rolling { return &Rolling{hash: sha256.New()} }

// write goes on with p.
func (r *Rolling) write(p []byte) {
	r.hash.Write(p)
	r.offset += uint64(len(p))
}

// alongside goes on with p while f runs, which may read p too, and returns what f
// does.
func (r *Rolling) alongside(p []byte, f func() error) error {
	if len(p) < worthSplitting {
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

// sum returns the SHA-256 so far.
func (r *Rolling) sum() []byte { return r.hash.Sum(nil) }

// mark keeps the state of now.
func (r *Rolling) mark() {
	state, err := r.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return // it is computed again if it is needed
	}
	if len(r.marks) == maxMarks {
		copy(r.marks, r.marks[1:])
		r.marks = r.marks[:maxMarks-1]
	}
	r.marks = append(r.marks, mark{r.offset, state})
}

// rewind goes back to the last state kept at or before offset.
func (r *Rolling) rewind(offset uint64) {
	if r.offset <= offset {
		return
	}
	for len(r.marks) > 0 {
		last := r.marks[len(r.marks)-1]
		if last.offset <= offset {
			h := sha256.New()
			if h.(encoding.BinaryUnmarshaler).UnmarshalBinary(last.state) == nil {
				r.hash, r.offset = h, last.offset
				return
			}
		}
		r.marks = r.marks[:len(r.marks)-1]
	}
	r.hash, r.offset = sha256.New(), 0
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
// hash of the file that was under way, what was made last, and how much the sender may
// still send. The zero value remembers nothing. One
// transfer at a time uses it.
type Memory struct {
	mu      sync.Mutex
	key     fileKey
	rolling *Rolling
	left    *allowance // nil: nothing was received yet
	made    map[madeKey]bool
	order   []madeKey // of made, the oldest first
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
	if m.made[key] {
		return
	}
	if m.made == nil {
		m.made = make(map[madeKey]bool)
	}
	if len(m.order) == maxMade {
		delete(m.made, m.order[0])
		m.order = m.order[1:]
	}
	m.made[key] = true
	m.order = append(m.order, key)
}

// has reports whether the receiver has made a file or directory not long ago.
func (m *Memory) has(source uint32, path []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.made) > 0 && m.made[newMadeKey(source, path)]
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
	modified       int64
	changed        int64
	device, number uint64
}

// rollingFor returns the hash of before, or a new one if that was of another
// file, and remembers it.
func (m *Memory) rollingFor(key fileKey) *Rolling {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rolling == nil || m.key != key {
		m.key, m.rolling = key, newRolling()
	}
	return m.rolling
}

// forget forgets all.
func (m *Memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key, m.rolling = fileKey{}, nil
}
