package layertar_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"testing"

	"layervault/crypt/layertar"
)

// What formatting costs by itself, without a device.
func BenchmarkFromTar(b *testing.B) {
	for _, c := range []struct{ files, size int }{{20000, 4000}, {100, 1 << 20}} {
		for _, fs := range formats {
			b.Run(fmt.Sprint(fs.name, " ", c.files, " of ", c.size), func(b *testing.B) {
				items := make([]item, 0, c.files)
				for i := range c.files {
					items = append(items, file(fmt.Sprintf("d/%d/file-%d", i/100, i), string(bytes.Repeat([]byte{byte(i) | 1}, c.size))))
					items[i].Format = tar.FormatUSTAR
				}
				body := makeTar(b, items...)
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := fs.fromTar(b.Context(), bytes.NewReader(body), discard{}, layertar.Options{Dir: "diff"}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
