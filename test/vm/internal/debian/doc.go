// Package debian makes a folder of programs and a kernel out of Debian
// packages, for use there and in virtual machines.
//
// Invariant: nothing is installed. Packages are downloaded with everything that
// they depend on, as if the machine had none of them, and unpacked; no script of
// theirs runs. So the result does not depend on what the machine has, and the
// machine is not changed. What it takes is apt-get, dpkg-deb and tar.
package debian
