package crypt

import "io"

// ReadAll is what Verify does with an open device.
var ReadAll = readAll

// AsidePrefix begins the names of devices that images are verified through.
const AsidePrefix = asidePrefix

// Counted is a reader that tells of the bytes that it read, of total.
func Counted(r io.ReaderAt, total int64, progress func(done, total int64)) io.ReaderAt {
	return &counted{r: r, total: total, progress: progress}
}
