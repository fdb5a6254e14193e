package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"regexp"
	"time"
)

//go:embed text.txt
var text string

// tokens cuts the text as a model might: pieces of words, with the space
// before them.
var tokens = regexp.MustCompile(`\s*\S{1,6}|\s+`).FindAllString(text, -1)

// An upstream stands in for a model behind the chat API that most of them
// speak. Whatever it is asked, it answers with the text, a token at a time.
// It knows nothing of package flush.
type upstream struct {
	pace time.Duration // between two tokens
	log  *log.Logger
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	n, err := u.answer(r.Context(), w)
	if err != nil {
		u.log.Printf("upstream: stopped after %d of %d tokens: %v", n, len(tokens), err)
		return
	}
	u.log.Printf("upstream: all %d tokens", n)
}

func (u *upstream) answer(ctx context.Context, w http.ResponseWriter) (n int, err error) {
	ticker := time.NewTicker(u.pace)
	defer ticker.Stop()
	rc := http.NewResponseController(w)
	for _, token := range tokens {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if err := sendToken(w, token); err != nil {
			return n, err
		}
		if err := rc.Flush(); err != nil {
			return n, err
		}
		n++
	}
	_, err = io.WriteString(w, "data: [DONE]\n\n")
	return n, err
}

// A chunk is one event of the chat API, as far as it is used here.
type chunk struct {
	Object  string   `json:"object"`
	Choices []choice `json:"choices"`
}

type choice struct {
	Delta delta `json:"delta"`
}

type delta struct {
	Content string `json:"content"`
}

func sendToken(w io.Writer, token string) error {
	event, err := json.Marshal(chunk{Object: "chat.completion.chunk", Choices: []choice{{delta{token}}}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "data: %s\n\n", event)
	return err
}
