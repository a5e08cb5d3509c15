package api_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
)

// Frames without a name, and the end that goes with them, begin and keep a stream
// as any other does.
func TestFramesWithoutAName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		s := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			stream := api.OpenStream(w)
			defer stream.Close()
			if err := stream.Send("", map[string]string{"text": "a\n\ndata: [DONE]\n\n\u2028"}); err != nil {
				return err
			}
			time.Sleep(16 * time.Second)
			if err := stream.Done(); err != nil {
				return err
			}
			if stream.Withdraw() {
				t.Error("a stream that has begun was withdrawn")
			}
			return nil
		}))
		s.ServeHTTP(w, request("GET", "/health"))
		want := "data: {\"text\":\"a\\n\\ndata: [DONE]\\n\\n\\u2028\"}\n\n:\n\ndata: [DONE]\n\n"
		if w.Body.String() != want || w.Header().Get("Content-Type") != "text/event-stream" || !w.Flushed {
			t.Errorf("%v, flushed %v, stream\n%q, want\n%q", w.Header(), w.Flushed, w.Body, want)
		}
	})
}
