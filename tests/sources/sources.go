// Package sources tells go test what a test depends on that builds programs: it
// caches results by the packages a test imports and the files it looks at, and
// knows nothing of what a `go build` of its own reads. Without this, a test of
// compiled Lambdas would be green from the cache after a change to one.
package sources

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Depend looks at every Go file of the module, tests aside, and at its go.mod.
// root is the module's root, seen from the test's folder. It must be called by a
// test: what TestMain does before m.Run is not noted.
func Depend(root string) error {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			_, err = os.Stat(path)
		}
		return err
	})
}
