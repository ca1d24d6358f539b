// Package sim plays two nodes of a replication pair against a network, disks
// and clocks that fail in every way the design allows for, in one thread and
// from one number: a seed. Mail stores and channels are the real ones; what is
// played is the world around them. All of it is in the tests; docs/testing.md
// tells how to run, replay and read it.
package sim
