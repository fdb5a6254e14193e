<?php
// The step language of steps.go, for PHP.
ignore_user_abort(true);
set_time_limit(60);

if (PHP_SAPI === 'cli') {
    parse_str(substr($argv[1], strpos($argv[1], '?') + 1), $_GET);
}

const EVENT = "data: 0123456789abcdef\n\n";
$results = [];

function park(): bool
{
    global $results;
    $url = sprintf('http://%s/park?run=%s&res=%s', $_GET['ctl'], $_GET['run'], urlencode(implode(',', $results)));
    return @file_get_contents($url) !== false;
}

function emit(int $n, string $text): string
{
    for ($i = 0; $i < $n; $i++) {
        echo $text;
        flush();
        if (connection_aborted()) {
            return 'client aborted';
        }
    }
    return 'ok';
}

foreach (explode(',', $_GET['s']) as $op) {
    [$name, $arg] = explode(':', $op, 2) + [1 => ''];
    switch ($name) {
        case 'w':
            echo $arg;
            break;
        case 'n':
            echo "$arg\n";
            break;
        case 'z':
            echo '';
            break;
        case 'x':
            echo str_repeat('x', (int) $arg);
            break;
        case 'f':
        case 'a':
            flush();
            break;
        case 'p':
            if (!park()) {
                exit;
            }
            break;
        case 's':
            http_response_code((int) $arg);
            break;
        case 'h':
            header(str_replace('=', ': ', $arg));
            break;
        case 'i':
            ob_implicit_flush($arg === 'on');
            break;
        case 'b':
            ob_start();
            break;
        case 'g':
            ob_start('ob_gzhandler');
            break;
        case 'bf':
            ob_flush();
            break;
        case 'bc':
            ob_clean();
            break;
        case 'be':
            ob_end_flush();
            break;
        case 'l':
            [$n, $size] = explode(':', $arg);
            $results[] = emit((int) $n, str_repeat('x', (int) $size));
            break;
        case 'ef':
            $results[] = emit((int) $arg, EVENT);
            break;
        default:
            throw new Exception("no operation $op");
    }
}
