// Package guest is for a virtual machine what os/exec is for the local one: it
// runs processes in a guest, through the agent that listens there.
//
//	g, err := guest.Dial(ctx, "3", nil) // the VM with CID 3
//	if err != nil {
//		return err
//	}
//	defer g.Close()
//	out, err := g.Command(ctx, "uname", "-a").Output()
//
// [Guest.Command] returns a [Cmd] with the fields and methods of exec.Cmd, so
// that a program which uses os/exec is ported by changing the constructor. What
// differs is written at [Cmd].
//
// # Sessions
//
// A command runs in a session of the agent, which has an id made by this side
// and outlives the connection: if the connection is lost, because the VM was
// snapshotted and restored or the machine slept, the command goes on, and this
// package attaches again at the byte it had reached. Output is complete and not
// repeated, input is neither lost nor repeated, and nothing ever runs twice.
// What cannot be restored, such as a session of an agent that was restarted, is
// an [*Error] that says so.
//
// # Trust
//
// The guest is not trusted. Every length, offset and count that it sends is
// checked, memory is bounded by the window of the streams, and an answer that
// breaks the protocol ends the command with [ReasonProtocol]. The texts of
// errors, names and command lines come from the guest as they are: a program
// that shows them on a terminal must make control characters visible first.
package guest
