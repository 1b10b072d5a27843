package charge

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// take takes one at a time until there is no more.
func take(p *Pool, a Account) (n int64) {
	for p.Take(a, 1) == nil {
		n++
	}
	return n
}

// TestShares: one caller gets half of what is not reserved, the next a half of the
// rest at least, and who may do everything all that is left.
func TestShares(t *testing.T) {
	p := NewPool(1024)
	greedy, next, last, root := Account{ID: "a"}, Account{ID: "b"}, Account{ID: "c"}, Account{ID: "root", Full: true}
	for _, want := range []struct {
		a Account
		n int64
	}{{greedy, 480}, {next, 240}, {last, 120}, {root, 184}, {root, 0}, {greedy, 0}} {
		if n := take(p, want.a); n != want.n {
			t.Errorf("%s gets %d, want %d", want.a.ID, n, want.n)
		}
	}
	for range 480 {
		p.Give(greedy, 1)
	}
	if p.Held(greedy) != 0 || p.Used() != 544 || len(p.held) != 3 {
		t.Errorf("after it has given back: %+v", p)
	}
	if r := NewPool(2).Take(greedy, 3); r == nil || r.Error() == "" {
		t.Error("more than there is was taken")
	}
}

// TestPool: whoever comes and goes, no more is taken than there is, nobody but who
// may do everything has more than half, and the reserve is left for them.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPool(rapid.Int64Range(1, 200).Draw(t, "limit"))
		accounts := []Account{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "root", Full: true}}
		held := make(map[string]int64)
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			a := rapid.SampledFrom(accounts).Draw(t, "account")
			n := rapid.Int64Range(1, 20).Draw(t, "n")
			if rapid.Bool().Draw(t, "give") {
				n = min(n, held[a.ID])
				p.Give(a, n)
				held[a.ID] -= n
				continue
			}
			fits := p.Fits(a, n)
			if taken := p.Take(a, n) == nil; taken != fits {
				t.Fatalf("Fits says %v, Take %v", fits, taken)
			} else if taken {
				held[a.ID] += n
			}
			if others := p.Used() - held["root"]; !a.Full && fits && (p.Used() > p.limit-p.reserve || held[a.ID] != n && 2*held[a.ID] > p.limit || others > p.limit) {
				t.Fatalf("%s holds %d of %d", a.ID, held[a.ID], p.limit)
			}
		}
		sum := int64(0)
		for _, n := range held {
			sum += n
		}
		if p.Used() != sum || sum > p.limit {
			t.Fatalf("%d are taken, want %d of %d", p.Used(), sum, p.limit)
		}
	})
}

// TestRate: an account has so many events in a second, what is left out is told
// once, and another account has its own.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Rate{PerSecond: 3}
		told := 0
		count := func(a Account, n int) (passed int) {
			for range n {
				if r.Take(a, func(n int) { told += n }) {
					passed++
				}
			}
			return passed
		}
		a, b := Account{ID: "a"}, Account{ID: "b"}
		if n := count(a, 10); n != 3 {
			t.Errorf("%d of 10 have passed", n)
		}
		if n := count(b, 2); n != 2 {
			t.Errorf("%d of another's 2 have passed", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if told != 7 || len(r.of) != 0 {
			t.Errorf("%d were told of, %d accounts are known", told, len(r.of))
		}
		if n := count(a, 1); n != 1 {
			t.Error("in the next second nothing passes")
		}
		time.Sleep(time.Second)
	})
}
