// Package luks2 reads and writes the LUKS2 on-disk format (LUKS2 On-Disk Format
// Specification 1.1), so that images are made and opened without running cryptsetup.
package luks2
