// Package clock implements guest.v1.ClockService: the guest's clocks are read, and its
// wall clock is set, stepped or slewed, with the hardware clock after it.
//
// Another program that keeps the clock, such as chronyd, has precedence: what the
// agent does to the clock beside it is undone by it, or disturbs it.
package clock
