package sock

import "testing"

// TestSpinnerBacksOff: where looking brings nothing it is done ever more seldom, but
// never given up; what it brings makes it more frequent again.
func TestSpinnerBacksOff(t *testing.T) {
	if !manyCPUs() {
		t.Skip("one CPU")
	}
	var s spinner
	tries := 0
	for range 10 << maxSpinMisses {
		if s.try() {
			tries++
			s.done(false)
		}
	}
	if tries < 10 || tries > 3*maxSpinMisses {
		t.Errorf("%d looks in %d sleeps", tries, 10<<maxSpinMisses)
	}
	for s.skip > 0 {
		s.try()
	}
	for range maxSpinMisses {
		if !s.try() {
			t.Fatal("not tried although it brought something")
		}
		s.done(true)
	}
	if s.misses != 0 {
		t.Errorf("%d misses left", s.misses)
	}
}
