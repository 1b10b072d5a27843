package guest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// TestAttachContext shows that the end of its context ends an attachment, and not the
// session.
func TestAttachContext(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	job := g.Command(t.Context(), "sleep", "1000")
	job.Detach, job.Name = true, "job"
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []*guest.AttachOptions{nil, {Observer: true}} {
		ctx, cancel := context.WithCancel(t.Context())
		attached := g.Attach(ctx, "job", opts)
		if err := attached.Start(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := attached.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: %v, want canceled", opts, err)
		}
	}
	if err := g.SignalSession(t.Context(), job.ID, 0, nil); err != nil {
		t.Errorf("the session: %v", err)
	}
	if err := g.RemoveSession(t.Context(), job.ID, &guest.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}
