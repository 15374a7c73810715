package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// awaitHTTP waits until a GET of url answers with status.
func awaitHTTP(t testing.TB, url string, status int) string {
	t.Helper()
	var body string
	await(t, 10*time.Second, fmt.Sprintf("%s answers %d", url, status), func() (bool, string) {
		code, text, err := get(url)
		if err != nil {
			return false, err.Error()
		}
		body = text
		return code == status, fmt.Sprint(code, " ", text)
	})
	return body
}

func get(url string) (status int, body string, err error) {
	browser := http.Client{Timeout: patience}
	reply, err := browser.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer reply.Body.Close()
	raw, err := io.ReadAll(reply.Body)
	return reply.StatusCode, string(raw), err
}
