package hostile

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Evil is text that a terminal acts on, or shows out of order: it writes to the
// clipboard, clears the screen, goes back to the start of the line. As a path it
// leads out of every directory.
const Evil = "../\x1b]52;c;ZXZpbA==\a\x1b[2J\x1b[31m\u009b1m\u202eevil\u2066\u200f\u2028\r\b\x7f\x00/../../../../../../../tmp/hostile-evil"

// sessionID is the id of every session of an Agent, and SessionID how host-ctl
// writes it.
const (
	sessionID = "0123456789abcdef"
	SessionID = "s30313233343536373839616263646566"
)

// Temper is how messages are filled.
type Temper string

// The tempers.
const (
	Empty   Temper = "empty"   // nothing is set
	Text    Temper = "text"    // Evil in every string, small numbers
	Highest Temper = "highest" // the largest numbers of their types
	Lowest  Temper = "lowest"  // the smallest
	Large   Temper = "large"   // long texts and lists, up to about 1 MiB
	Mixed   Temper = "mixed"   // at random, of numbers at edges, paths, texts
	Noise   Temper = "noise"   // bytes at random, which are no message
)

// Tempers are all of them.
var Tempers = []Temper{Empty, Text, Highest, Lowest, Large, Mixed, Noise}

// filler fills messages.
type filler struct {
	temper Temper
	rand   *rand.Rand
	// ids are the values of fields named *_id of what was asked: an answer without
	// them is refused before anything else in it is looked at.
	ids  map[protoreflect.Name]protoreflect.Value
	left int // bytes of text and elements of lists that may follow
}

func newFiller(t Temper, seed uint64) *filler {
	return &filler{temper: t, rand: rand.New(rand.NewPCG(seed, 0)), ids: make(map[protoreflect.Name]protoreflect.Value)}
}

// learn takes the ids out of a message.
func (f *filler) learn(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
		case fd.IsList():
		case fd.Message() != nil:
			f.learn(v.Message())
		case strings.HasSuffix(string(fd.Name()), "_id"):
			f.ids[fd.Name()] = v
		}
		return true
	})
}

// fill fills m. Of a oneof, turn says which field is set.
func (f *filler) fill(m protoreflect.Message, turn int) {
	f.left = 1 << 20
	switch f.temper {
	case Noise:
		b := make([]byte, f.rand.IntN(300))
		for i := range b {
			b[i] = byte(f.rand.Uint32())
		}
		m.SetUnknown(b)
	case Empty:
	default:
		f.message(m, turn, 4)
	}
}

func (f *filler) message(m protoreflect.Message, turn, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(turn%o.Fields().Len()) != fd {
			continue
		}
		if f.temper == Mixed && f.rand.IntN(8) == 0 {
			continue
		}
		switch {
		case fd.IsMap():
			f.mapping(m.Mutable(fd).Map(), fd, turn, depth)
		case fd.IsList():
			f.list(m.Mutable(fd).List(), fd, turn, depth)
		case fd.Message() != nil:
			if depth > 0 {
				f.message(m.Mutable(fd).Message(), turn, depth-1)
			}
		default:
			m.Set(fd, f.scalar(fd))
		}
	}
}

// length returns how long a list is.
func (f *filler) length(depth int) int {
	n := 2
	if f.temper == Large {
		n = []int{4, 4, 8, 30, 500}[depth]
	}
	n = min(n, f.left/64)
	f.left -= 64 * n
	return n
}

func (f *filler) list(l protoreflect.List, fd protoreflect.FieldDescriptor, turn, depth int) {
	if fd.Message() != nil && depth == 0 {
		return
	}
	for i := range f.length(depth) {
		if fd.Message() != nil {
			v := l.NewElement()
			f.message(v.Message(), turn+i, depth-1)
			l.Append(v)
		} else {
			l.Append(f.scalar(fd))
		}
	}
}

func (f *filler) mapping(m protoreflect.Map, fd protoreflect.FieldDescriptor, turn, depth int) {
	for range f.length(0) {
		key := f.scalar(fd.MapKey()).MapKey()
		if fd.MapValue().Message() == nil {
			m.Set(key, f.scalar(fd.MapValue()))
		} else if depth > 0 {
			v := m.NewValue()
			f.message(v.Message(), turn, depth-1)
			m.Set(key, v)
		}
	}
}

func pick[T any](f *filler, choices ...T) T {
	switch f.temper {
	case Lowest:
		return choices[0]
	case Highest:
		return choices[len(choices)-1]
	case Mixed:
		return choices[f.rand.IntN(len(choices))]
	}
	return choices[len(choices)/2] // a small number
}

func (f *filler) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	if v, ok := f.ids[fd.Name()]; ok && v.IsValid() && sameKind(fd, v) {
		return v
	}
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(pick(f, false, true, true))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(pick[protoreflect.EnumNumber](f, -1, 0, 1, 2, 1<<30))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(pick[int32](f, math.MinInt32, -1, 1, 1<<16, math.MaxInt32))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(pick[uint32](f, 0, 1, 5, 1<<31, math.MaxUint32))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(pick[int64](f, math.MinInt64, -1, 1, 1<<40, math.MaxInt64))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(pick[uint64](f, 0, 1, 5, 1<<40, 1<<63, math.MaxUint64))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(pick(f, float32(math.Inf(-1)), -1, 1, float32(math.NaN()), float32(math.Inf(1))))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(f, math.Inf(-1), -1, 1, math.NaN(), math.Inf(1)))
	case protoreflect.StringKind:
		// A string has to be UTF-8, or it is not sent.
		return protoreflect.ValueOfString(f.text())
	}
	if fd.Name() == "session_id" {
		return protoreflect.ValueOfBytes([]byte(sessionID))
	}
	b := []byte(f.text())
	if f.temper == Mixed && f.rand.IntN(4) == 0 {
		b = append(b, 0xff, 0xfe, 0x9b)
	}
	return protoreflect.ValueOfBytes(b)
}

func sameKind(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch v.Interface().(type) {
	case []byte:
		return fd.Kind() == protoreflect.BytesKind
	case string:
		return fd.Kind() == protoreflect.StringKind
	case uint64:
		return fd.Kind() == protoreflect.Uint64Kind
	}
	return false
}

// texts are what a Mixed text is.
var texts = []string{"", "/", ".", "..", "a", "../../etc/passwd", "/etc/passwd", "a/../../b", "a\x00b", Evil, "-rf", strings.Repeat("d/", 3000)}

func (f *filler) text() string {
	switch f.temper {
	case Large:
		n := min(1000, f.left)
		f.left -= n
		return strings.Repeat("x", n)
	case Mixed:
		return texts[f.rand.IntN(len(texts))]
	}
	return Evil
}

// Fill fills a message as a temper has it.
func Fill(m proto.Message, t Temper, seed uint64, turn int) {
	newFiller(t, seed).fill(m.ProtoReflect(), turn)
}

// Harmful returns the first byte or character of output that a terminal acts on
// or that shows text out of order, as Go escapes it, or "".
func Harmful(output []byte) string {
	for _, r := range string(bytes.ToValidUTF8(output, []byte("\a"))) {
		switch {
		case r == '\n' || r == '\t':
		case r < ' ' || r >= 0x7f && r < 0xa0,
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069,
			r == 0x061c, r == 0x200e, r == 0x200f, r == 0x2028, r == 0x2029:
			return strings.Trim(string(appendQuoted(r)), `'`)
		}
	}
	return ""
}
