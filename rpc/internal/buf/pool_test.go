package buf

import "testing"

// TestBuffers: what the pool makes has the size of its class, or it could not be put
// back.
func TestBuffers(t *testing.T) {
	for i := range Pool.classes {
		for _, n := range []int{classSize(i)/2 + classExtra, classSize(i) - 1, classSize(i)} {
			b := Pool.Get(n)
			if len(*b) != n || cap(*b) != classSize(classOf(n)) {
				t.Errorf("%d bytes of %d, want %d of %d", len(*b), cap(*b), n, classSize(classOf(n)))
			}
			(*b)[0], (*b)[n-1] = 1, 1
			Pool.Put(b)
		}
	}
}

// TestForeignBuffers: the pool takes nothing that it has not made, since what it returns
// must have room for its class.
func TestForeignBuffers(t *testing.T) {
	Pool.Put(nil)
	for _, n := range []int{0, 1, 255, 4 << 10, 1 << 20, 5 << 20} {
		b := make([]byte, n, n+n/3)
		Pool.Put(&b)
	}
	part := (*Pool.Get(4 << 10))[100:]
	Pool.Put(&part)
	for i := range Pool.classes {
		if b := Pool.Get(classSize(i)); len(*b) != classSize(i) {
			t.Errorf("%d bytes, want %d", len(*b), classSize(i))
		}
	}
	if b := Pool.Get(5 << 20); len(*b) != 5<<20 {
		t.Errorf("%d bytes, want more than a class has", len(*b))
	}
}

func TestCopy(t *testing.T) {
	in := []byte("some text")
	b := Pool.Copy(in)
	in[0] = 'S'
	if string(*b) != "some text" {
		t.Errorf("the copy is %q", *b)
	}
}
