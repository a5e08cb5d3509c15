package bedrock

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"

	"postern/shared/awsclient"
)

// What is read of a response is bounded, in bytes. A token costs Bedrock one
// frame of about 250, and the longest answers have 128,000.
const (
	maxError  = 64 << 10
	maxFrame  = 1 << 20
	maxAnswer = 64 << 20
	maxWhole  = 2 << 20 // without frames: 16 a token; read, one may take 60 times as much
)

// bounded holds an answer to its frames, and an error and an answer without
// frames to their length: the SDK reads the body of those, and a frame of up to
// 4 GB, into memory.
type bounded struct{ *awsclient.HTTP }

func (b bounded) Do(req *http.Request) (*http.Response, error) {
	resp, err := b.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	var reader io.Reader
	switch {
	case resp.StatusCode != http.StatusOK:
		reader = io.LimitReader(resp.Body, maxError)
	case strings.HasSuffix(req.URL.Path, "/converse"):
		reader = &unframed{body: resp.Body}
	default:
		reader = &frames{body: resp.Body}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{reader, resp.Body}
	return resp, nil
}

// unframed passes an answer without frames on, up to maxWhole; a connection that
// breaks is told as errCut.
type unframed struct {
	body io.Reader
	have int
}

func (u *unframed) Read(p []byte) (int, error) {
	n, err := u.body.Read(p)
	if u.have += n; u.have > maxWhole {
		return 0, errTooLarge
	}
	return n, orCut(err)
}

// orCut makes errCut of a failure to read.
func orCut(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("%w: %w", errCut, err)
}

// frames passes an event stream on, but no frame that is too long or whose
// lengths contradict each other; a connection that breaks is told as errCut. Each
// frame begins with its own length and that of its headers, four bytes each;
// besides headers and payload it has minFrame bytes (Smithy 2.0, "Amazon Event
// Stream Specification").
type frames struct {
	body io.Reader
	head [8]byte // of the frame that begins
	have int     // bytes of head
	left int     // bytes of the frame after its head
}

const minFrame = 16

func (f *frames) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if f.left > 0 {
			taken := min(f.left, len(rest))
			f.left -= taken
			rest = rest[taken:]
			continue
		}
		taken := copy(f.head[f.have:], rest)
		f.have += taken
		rest = rest[taken:]
		if f.have < len(f.head) {
			break
		}
		whole, headers := binary.BigEndian.Uint32(f.head[:4]), binary.BigEndian.Uint32(f.head[4:])
		if whole < minFrame || whole > maxFrame || headers > whole-minFrame {
			return 0, fmt.Errorf("%w: a frame of %d bytes, %d of headers", errNonsense, whole, headers)
		}
		f.left, f.have = int(whole)-len(f.head), 0
	}
	return n, orCut(err)
}
