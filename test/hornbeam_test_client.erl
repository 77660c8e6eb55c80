%% SPDX-License-Identifier: Apache-2.0
%% A raw HTTP/1 client: sends the bytes it is given, and reads responses without being lenient.
-module(hornbeam_test_client).

-export([go_by/1]).
-export([connect/1]).
-export([send/2]).
-export([get/2]).
-export([get/3]).
-export([request/2]).
-export([exchange/2]).
-export([response/1]).
-export([response/2]).
-export([head/1]).
-export([bytes/2]).
-export([rest/1]).
-export([is_closed/1]).
-export([close/1]).
-export([serves/1]).
-export([close_all/0]).
-export([reset/1]).
-export([values/2]).

-define(TIMEOUT_MS, 10000).

%% Whether requests of get/2, get/3 and request/2 are what hornbeam_head takes, or left to Cowboy for
%% the name of a header that is rare.
go_by(usual) ->
    _ = persistent_term:erase(?MODULE),
    ok;
go_by(cowboy) ->
    persistent_term:put(?MODULE, "X-Rare!: name\r\n").

connect(Port) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [
        binary, {active, false}, {nodelay, true}, {show_econnreset, true}
    ]),
    Socket.

send(Socket, Data) ->
    ok = gen_tcp:send(Socket, Data).

%% The bytes of a request without a body.
get(Socket, Target) ->
    get(Socket, Target, "").

get(Socket, Target, Headers) ->
    send(Socket, get_request(Target, Headers)).

get_request(Target, Headers) ->
    ["GET ", Target, " HTTP/1.1\r\nHost: a\r\n", Headers, persistent_term:get(?MODULE, ""), "\r\n"].

%% A response on a connection of its own.
request(Port, Target) ->
    exchange(Port, get_request(Target, "")).

exchange(Port, Data) ->
    Socket = connect(Port),
    send(Socket, Data),
    Response = response(Socket),
    close(Socket),
    Response.

%% The next response, as a map: status, headers in their order, body, and how the body ended.
response(Socket) ->
    response(Socket, <<"GET">>).

response(Socket, Method) ->
    {Status, Headers} = head(Socket),
    {Body, End} = body(Socket, Method, Status, Headers),
    #{status => Status, headers => Headers, body => Body, ended => End}.

head(Socket) ->
    ok = inet:setopts(Socket, [{packet, http_bin}]),
    {ok, {http_response, {1, 1}, Status, _}} = gen_tcp:recv(Socket, 0, ?TIMEOUT_MS),
    ok = inet:setopts(Socket, [{packet, httph_bin}]),
    Headers = headers(Socket, []),
    ok = inet:setopts(Socket, [{packet, raw}]),
    {Status, Headers}.

bytes(Socket, Count) ->
    {ok, Data} = gen_tcp:recv(Socket, Count, ?TIMEOUT_MS),
    Data.

%% All that comes until the server closes.
rest(Socket) ->
    rest(Socket, <<>>).

%% Whether the server ends the connection without saying anything more.
is_closed(Socket) ->
    case gen_tcp:recv(Socket, 0, ?TIMEOUT_MS) of
        {error, closed} -> true;
        {error, econnreset} -> true;
        %% It has been seen already.
        {error, enotconn} -> true;
        {ok, _} -> false
    end.

close(Socket) ->
    gen_tcp:close(Socket).

%% Whether there is an answer, now.
serves(Port) ->
    try request(Port, "/hello") of
        #{status := Status} -> Status =:= 200
    catch
        error:{badmatch, {error, _}} -> false;
        error:{case_clause, {error, _}} -> false
    end.

%% All sockets of the calling process: a server that stops waits a second for each that is open.
close_all() ->
    [close(Port) || Port <- erlang:ports(), {connected, self()} =:= erlang:port_info(Port, connected),
                    {name, "tcp_inet"} =:= erlang:port_info(Port, name)].

reset(Socket) ->
    ok = inet:setopts(Socket, [{linger, {true, 0}}]),
    gen_tcp:close(Socket).

%% The values of all header lines of a name, in their order.
values(Name, #{headers := Headers}) ->
    [Value || {Given, Value} <- Headers, Given =:= Name].

%% Internal.

headers(Socket, Headers) ->
    case gen_tcp:recv(Socket, 0, ?TIMEOUT_MS) of
        {ok, {http_header, _, _, Name, Value}} ->
            headers(Socket, [{lower_case(Name), Value} | Headers]);
        {ok, http_eoh} ->
            lists:reverse(Headers)
    end.

%% Names that the emulator knows come as atoms.
lower_case(Name) when is_atom(Name) -> lower_case(atom_to_binary(Name));
lower_case(Name) -> string:lowercase(Name).

body(_, <<"HEAD">>, _, _) -> {<<>>, complete};
body(_, _, Status, _) when Status < 200; Status =:= 204; Status =:= 304 -> {<<>>, complete};
body(Socket, _, _, Headers) ->
    case {header(<<"transfer-encoding">>, Headers), header(<<"content-length">>, Headers)} of
        {<<"chunked">>, undefined} -> chunks(Socket, []);
        {undefined, undefined} -> {rest(Socket), closed};
        {undefined, Length} -> sized(Socket, binary_to_integer(Length))
    end.

header(Name, Headers) ->
    case [Value || {Given, Value} <- Headers, Given =:= Name] of
        [] -> undefined;
        [Value] -> Value
    end.

sized(_, 0) ->
    {<<>>, complete};
sized(Socket, Length) ->
    case gen_tcp:recv(Socket, Length, ?TIMEOUT_MS) of
        {ok, Body} -> {Body, complete};
        {error, closed} -> {<<>>, cut}
    end.

%% A chunked body, with its trailers where there are some.
chunks(Socket, Chunks) ->
    case line(Socket) of
        {ok, <<"0\r\n">>} ->
            {iolist_to_binary(lists:reverse(Chunks)), trailers(Socket, [])};
        {ok, Line} ->
            Size = binary_to_integer(string:trim(Line), 16),
            case gen_tcp:recv(Socket, Size + 2, ?TIMEOUT_MS) of
                {ok, <<Chunk:Size/binary, "\r\n">>} -> chunks(Socket, [Chunk | Chunks]);
                {error, closed} -> {iolist_to_binary(lists:reverse(Chunks)), cut}
            end;
        {error, closed} ->
            {iolist_to_binary(lists:reverse(Chunks)), cut}
    end.

trailers(Socket, Trailers) ->
    case line(Socket) of
        {ok, <<"\r\n">>} when Trailers =:= [] -> complete;
        {ok, <<"\r\n">>} -> {trailers, lists:reverse(Trailers)};
        {ok, Line} -> trailers(Socket, [string:trim(Line) | Trailers])
    end.

line(Socket) ->
    ok = inet:setopts(Socket, [{packet, line}]),
    Line = gen_tcp:recv(Socket, 0, ?TIMEOUT_MS),
    ok = inet:setopts(Socket, [{packet, raw}]),
    Line.

rest(Socket, Data) ->
    case gen_tcp:recv(Socket, 0, ?TIMEOUT_MS) of
        {ok, More} -> rest(Socket, <<Data/binary, More/binary>>);
        {error, closed} -> Data
    end.
