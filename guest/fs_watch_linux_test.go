package guest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestWatch(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	const (
		created = guestv1.FileEventKind_FILE_EVENT_KIND_CREATED
		renamed = guestv1.FileEventKind_FILE_EVENT_KIND_RENAMED
		removed = guestv1.FileEventKind_FILE_EVENT_KIND_REMOVED
		closed  = guestv1.FileEventKind_FILE_EVENT_KIND_CLOSED
	)
	// Each step is done when the event of the one before has come.
	steps := []struct {
		do        func()
		kind      guestv1.FileEventKind
		path, new string
	}{
		{func() { check(os.WriteFile(filepath.Join(dir, "sub/f"), []byte("x"), 0o644)) }, closed, "sub/f", ""},
		{func() { check(os.Rename(filepath.Join(dir, "sub/f"), filepath.Join(dir, "g"))) }, renamed, "sub/f", "g"},
		{func() { check(os.MkdirAll(filepath.Join(dir, "new/deep"), 0o755)) }, created, "new/deep", ""},
		{func() { check(os.WriteFile(filepath.Join(dir, "new/deep/h"), nil, 0o644)) }, created, "new/deep/h", ""},
		{func() { check(os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "moved"))) }, renamed, "new", "moved"},
		{func() { check(os.Remove(filepath.Join(dir, "moved/deep/h"))) }, removed, "moved/deep/h", ""},
	}
	next := -1
	for e, err := range g.Files().Watch(ctx, dir, &guest.WatchOptions{Recursive: true}) {
		if err != nil {
			if next == len(steps) && errors.Is(err, context.Canceled) {
				break
			}
			t.Fatalf("at step %d: %v", next, err)
		}
		if next >= 0 && (next == len(steps) || e.Kind != steps[next].kind || string(e.Path) != steps[next].path || string(e.NewPath) != steps[next].new) {
			continue
		}
		if next++; next == len(steps) {
			cancel()
			continue
		}
		steps[next].do()
	}
	if next != len(steps) {
		t.Errorf("ended at step %d", next)
	}
	for _, err := range g.Files().Watch(t.Context(), filepath.Join(dir, "none"), nil) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("of nothing: %v", err)
		}
	}
}
