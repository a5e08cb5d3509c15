// Bare is the baseline of the local server: a net/http handler that writes the
// status line, headers and body that GET /agents has, and does nothing for it.
// It takes the body as a file and prints its address.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	body, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("http://" + l.Addr().String())
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Cache-Control"] = []string{"no-store"}
		h["Content-Type"] = []string{"application/json"}
		h["Ratelimit"] = []string{`"hour";r=999999999;t=3600`}
		h["Ratelimit-Policy"] = []string{`"hour";q=1000000000;w=3600`}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["X-Request-Id"] = []string{"AAAAAAAAAAAAAAAAAAAAAAAAAA"}
		w.WriteHeader(http.StatusOK)
		w.Write(body)
	})))
}
