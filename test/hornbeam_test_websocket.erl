%% SPDX-License-Identifier: Apache-2.0
%% A WebSocket client of single steps, over HTTP/1.1 or HTTP/2 (RFC 8441, with prior knowledge).
%%
%% A socket belongs to the process that has opened it, where its state is kept: bytes that were read
%% and not asked for, and of HTTP/2 its windows and streams.
-module(hornbeam_test_websocket).

-export([open/3]).
-export([open/4]).
-export([request/4]).
-export([answer/1]).
-export([body/1]).
-export([connect_http2/1]).
-export([connect_http2/2]).
-export([request_http2/3]).
-export([request_http2/4]).
-export([send/2]).
-export([send_bytes/2]).
-export([try_send_bytes/2]).
-export([end_stream/1]).
-export([frame/1]).
-export([frame/4]).
-export([recv/1]).
-export([recv/2]).
-export([stop_reading/1]).
-export([read_more/2]).
-export([give_window/2]).
-export([closes/1]).
-export([close/1]).
-export([reset/1]).
-export([socket/1]).

-define(TIMEOUT_MS, 10000).
-define(KEY, <<"dGhlIHNhbXBsZSBub25jZQ==">>).
-define(MAX_DATA_BYTES, 16384).
-define(INITIAL_WINDOW, 65535).
-define(PREFACE, <<"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n">>).
%% SETTINGS_ENABLE_CONNECT_PROTOCOL is known to cowlib by this name.
-define(CONNECT_SETTING, enable_connect_protocol).

%% A WebSocket that is open.
open(Driver, Port, Target) ->
    open(Driver, Port, Target, []).

open(Driver, Port, Target, Headers) ->
    Ws = request(Driver, Port, Target, Headers),
    Status = case Driver of
        http1 -> 101;
        http2 -> 200
    end,
    {Status, _} = answer(Ws),
    Ws.

%% A handshake that was sent.
request(http1, Port, Target, Headers) ->
    Socket = connect(Port),
    put_state(Socket, #{buffer => <<>>}),
    Lines = [[Name, ": ", Value, "\r\n"] || {Name, Value} <- Headers],
    ok = gen_tcp:send(Socket, [
        "GET ", Target, " HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: ", ?KEY, "\r\nSec-WebSocket-Version: 13\r\n", Lines, "\r\n"
    ]),
    {http1, Socket};
request(http2, Port, Target, Headers) ->
    request_http2(connect_http2(Port), Target, Headers).

%% Status and headers of the response.
answer({http1, Socket}) ->
    hornbeam_test_client:head(Socket);
answer(Ws = {http2, Socket, Id}) ->
    case stream(Socket, Id) of
        #{status := Status, headers := Headers} -> {Status, Headers};
        #{ended := {reset, _} = Reset} -> Reset;
        _ -> read(Ws, ?TIMEOUT_MS), answer(Ws)
    end.

%% What follows the head of a denial, to the end.
body({http1, Socket}) ->
    hornbeam_test_client:rest(Socket);
body(Ws = {http2, Socket, Id}) ->
    case stream(Socket, Id) of
        #{ended := false} -> read(Ws, ?TIMEOUT_MS), body(Ws);
        #{buffer := Buffer} -> Buffer
    end.

connect_http2(Port) ->
    connect_http2(Port, #{}).

connect_http2(Port, Settings) ->
    Socket = connect(Port),
    ok = gen_tcp:send(Socket, [?PREFACE, cow_http2:settings(Settings)]),
    put_state(Socket, #{rest => <<>>, encoder => cow_hpack:init(), decoder => cow_hpack:init(),
                        window => ?INITIAL_WINDOW, initial => ?INITIAL_WINDOW, next => 1,
                        streams => #{}, settings => #{}, reads => true, goaway => false}),
    await_settings(Socket),
    Socket.

await_settings(Socket) ->
    case state(Socket) of
        #{settings := Settings} when map_size(Settings) > 0 ->
            true = maps:get(?CONNECT_SETTING, Settings);
        _ ->
            ok = read({http2, Socket, 0}, ?TIMEOUT_MS),
            await_settings(Socket)
    end.

%% Another one on the same connection.
request_http2(Socket, Target, Headers) ->
    request_http2(Socket, Target, Headers, nofin).

request_http2(Socket, Target, Headers, IsFin) ->
    State = #{next := Id, encoder := Encoder0, initial := Initial, streams := Streams} =
        state(Socket),
    Pseudo = [{<<":method">>, <<"CONNECT">>}, {<<":protocol">>, <<"websocket">>},
              {<<":scheme">>, <<"http">>}, {<<":authority">>, <<"a">>},
              {<<":path">>, iolist_to_binary(Target)},
              {<<"sec-websocket-version">>, <<"13">>}],
    Given = [{string:lowercase(iolist_to_binary(Name)), iolist_to_binary(Value)}
             || {Name, Value} <- Headers],
    Fields = [Field || Field = {Name, _} <- Pseudo, not lists:keymember(Name, 1, Given)] ++
        [Field || Field = {_, Value} <- Given, Value =/= <<>>],
    {Block, Encoder} = cow_hpack:encode(lists:sort(fun pseudo_first/2, Fields), Encoder0),
    put_state(Socket, State#{
        next := Id + 2, encoder := Encoder,
        streams := Streams#{Id => #{buffer => <<>>, ended => false, window => Initial}}
    }),
    ok = gen_tcp:send(Socket, cow_http2:headers(Id, IsFin, Block)),
    {http2, Socket, Id}.

pseudo_first({<<":", _/binary>>, _}, _) -> true;
pseudo_first(_, {Name, _}) -> binary:first(Name) =/= $:.

%% A frame, masked.
send(Ws, Frame) ->
    send_bytes(Ws, frame(Frame)).

send_bytes({http1, Socket}, Bytes) ->
    ok = gen_tcp:send(Socket, Bytes);
send_bytes(Ws = {http2, _, _}, Bytes) ->
    case try_send_bytes(Ws, Bytes) of
        ok -> ok;
        {blocked, Rest} ->
            case read(Ws, ?TIMEOUT_MS) of
                ok -> send_bytes(Ws, Rest);
                %% The server wants no more of it.
                End -> End
            end
    end.

%% What HTTP/2 has no window for is left.
try_send_bytes({http2, Socket, Id}, Bytes) ->
    send_data(Socket, Id, iolist_to_binary(Bytes)).

send_data(_, _, <<>>) ->
    ok;
send_data(Socket, Id, Bytes) ->
    State = #{window := Window, streams := Streams} = state(Socket),
    Stream = #{window := StreamWindow} = maps:get(Id, Streams),
    case min(min(Window, StreamWindow), min(?MAX_DATA_BYTES, byte_size(Bytes))) of
        Size when Size =< 0 ->
            {blocked, Bytes};
        Size ->
            <<Part:Size/binary, Rest/binary>> = Bytes,
            put_state(Socket, State#{window := Window - Size,
                streams := Streams#{Id := Stream#{window := StreamWindow - Size}}}),
            ok = gen_tcp:send(Socket, cow_http2:data(Id, nofin, Part)),
            send_data(Socket, Id, Rest)
    end.

end_stream({http2, Socket, Id}) ->
    ok = gen_tcp:send(Socket, cow_http2:data(Id, fin, <<>>)).

frame({text, Data}) -> frame(1, 0, 1, Data);
frame({binary, Data}) -> frame(1, 0, 2, Data);
frame(close) -> frame(1, 0, 8, <<>>);
frame({close, Code, Reason}) -> frame(1, 0, 8, <<Code:16, Reason/binary>>);
frame({ping, Data}) -> frame(1, 0, 9, Data);
frame({pong, Data}) -> frame(1, 0, 10, Data).

frame(Fin, Rsv, Opcode, Data) ->
    Key = crypto:strong_rand_bytes(4),
    Size = byte_size(Data),
    Length = if
        Size < 126 -> <<1:1, Size:7>>;
        Size < 65536 -> <<1:1, 126:7, Size:16>>;
        true -> <<1:1, 127:7, Size:64>>
    end,
    Stream = binary:part(binary:copy(Key, Size div 4 + 1), 0, Size),
    <<Fin:1, Rsv:3, Opcode:4, Length/binary, Key/binary, (crypto:exor(Data, Stream))/binary>>.

%% The next frame of the server; `closed' or `{reset, Code}' where there is none any more.
recv(Ws) ->
    recv(Ws, ?TIMEOUT_MS).

recv(Ws, TimeoutMs) ->
    case parse(buffer(Ws)) of
        {Frame, Rest} ->
            set_buffer(Ws, Rest),
            Frame;
        more ->
            case read(Ws, TimeoutMs) of
                ok -> recv(Ws, TimeoutMs);
                Other -> Other
            end
    end.

%% Unmasked, not in fragments, but for what a test asks for.
parse(<<1:1, Rsv:3, Opcode:4, 0:1, 127:7, Size:64, Data:Size/binary, Rest/binary>>) ->
    {shown(Rsv, Opcode, Data), Rest};
parse(<<1:1, Rsv:3, Opcode:4, 0:1, 126:7, Size:16, Data:Size/binary, Rest/binary>>) ->
    {shown(Rsv, Opcode, Data), Rest};
parse(<<1:1, Rsv:3, Opcode:4, 0:1, Size:7, Data:Size/binary, Rest/binary>>) when Size < 126 ->
    {shown(Rsv, Opcode, Data), Rest};
parse(_) ->
    more.

shown(4, Opcode, Data) -> {compressed, Opcode, Data};
shown(0, 1, Data) -> {text, Data};
shown(0, 2, Data) -> {binary, Data};
shown(0, 8, <<>>) -> close;
shown(0, 8, <<Code:16, Reason/binary>>) -> {close, Code, Reason};
shown(0, 9, Data) -> {ping, Data};
shown(0, 10, Data) -> {pong, Data}.

%% From now on an HTTP/2 client gives no window: what it has not read stays with the server.
stop_reading({http2, Socket, _}) ->
    put_state(Socket, (state(Socket))#{reads := false}).

give_window({http2, Socket, Id}, Bytes) ->
    gen_tcp:send(Socket, [cow_http2:window_update(Bytes), cow_http2:window_update(Id, Bytes)]).

%% Takes in what the server sends: `ok', `timeout' or the end.
read_more(Ws, TimeoutMs) ->
    read(Ws, TimeoutMs).

%% Whether nothing comes any more but the end.
closes(Ws) ->
    case recv(Ws) of
        closed -> true;
        {reset, no_error} -> true;
        Other -> {no, Other}
    end.

close(Ws) ->
    gen_tcp:close(socket(Ws)).

%% Without a word.
reset({http1, Socket}) ->
    hornbeam_test_client:reset(Socket);
reset({http2, Socket, Id}) ->
    ok = gen_tcp:send(Socket, cow_http2:rst_stream(Id, cancel)).

socket({http1, Socket}) -> Socket;
socket({http2, Socket, _}) -> Socket.

%% Internal.

connect(Port) ->
    hornbeam_test_client:connect(Port).

state(Socket) -> get({?MODULE, Socket}).

put_state(Socket, State) -> put({?MODULE, Socket}, State).

stream(Socket, Id) ->
    #{streams := #{Id := Stream}} = state(Socket),
    Stream.

buffer({http1, Socket}) ->
    maps:get(buffer, state(Socket));
buffer({http2, Socket, Id}) ->
    maps:get(buffer, stream(Socket, Id)).

set_buffer({http1, Socket}, Buffer) ->
    put_state(Socket, #{buffer => Buffer});
set_buffer({http2, Socket, Id}, Buffer) ->
    update_stream(Socket, Id, fun(Stream) -> Stream#{buffer := Buffer} end).

update_stream(Socket, Id, Fun) ->
    State = #{streams := Streams} = state(Socket),
    case Streams of
        #{Id := Stream} -> put_state(Socket, State#{streams := Streams#{Id := Fun(Stream)}});
        #{} -> ok
    end.

%% More bytes of the socket, or the end.
read(Ws = {http1, Socket}, TimeoutMs) ->
    case gen_tcp:recv(Socket, 0, TimeoutMs) of
        {ok, Data} -> set_buffer(Ws, <<(buffer(Ws))/binary, Data/binary>>), ok;
        {error, timeout} -> timeout;
        {error, _} -> closed
    end;
read({http2, Socket, Id}, TimeoutMs) ->
    case state(Socket) of
        #{streams := #{Id := #{ended := fin}}} -> closed;
        #{streams := #{Id := #{ended := {reset, _} = Reset}}} -> Reset;
        _ -> read_frames(Socket, TimeoutMs)
    end.

read_frames(Socket, TimeoutMs) ->
    case gen_tcp:recv(Socket, 0, TimeoutMs) of
        {ok, Data} ->
            State = #{rest := Rest} = state(Socket),
            put_state(Socket, State#{rest := <<>>}),
            frames(Socket, <<Rest/binary, Data/binary>>);
        {error, timeout} ->
            timeout;
        {error, _} ->
            closed
    end.

frames(Socket, Data) ->
    case cow_http2:parse(Data) of
        {ok, Frame, Rest} ->
            ok = http2_frame(Frame, Socket),
            frames(Socket, Rest);
        more ->
            put_state(Socket, (state(Socket))#{rest := Data}),
            ok
    end.

http2_frame({settings, Settings}, Socket) ->
    State = #{initial := Initial} = state(Socket),
    put_state(Socket, State#{settings := Settings,
                             initial := maps:get(initial_window_size, Settings, Initial)}),
    gen_tcp:send(Socket, cow_http2:settings_ack());
http2_frame({window_update, Increment}, Socket) ->
    State = #{window := Window} = state(Socket),
    put_state(Socket, State#{window := Window + Increment}),
    ok;
http2_frame({window_update, Id, Increment}, Socket) ->
    Add = fun(Stream = #{window := Window}) -> Stream#{window := Window + Increment} end,
    _ = update_stream(Socket, Id, Add),
    ok;
http2_frame({headers, Id, Fin, head_fin, Block}, Socket) ->
    State = #{decoder := Decoder0} = state(Socket),
    {Fields, Decoder} = cow_hpack:decode(Block, Decoder0),
    put_state(Socket, State#{decoder := Decoder}),
    [{<<":status">>, Status} | Headers] = Fields,
    _ = update_stream(Socket, Id, fun(Stream) ->
        Stream#{status => binary_to_integer(Status), headers => Headers, ended := ended(Fin)}
    end),
    ok;
http2_frame({data, Id, Fin, Data}, Socket) ->
    _ = update_stream(Socket, Id, fun(Stream = #{buffer := Buffer}) ->
        Stream#{buffer := <<Buffer/binary, Data/binary>>, ended := ended(Fin)}
    end),
    give_window(byte_size(Data), Id, Socket, state(Socket));
http2_frame({rst_stream, Id, Reason}, Socket) ->
    _ = update_stream(Socket, Id, fun
        (Stream = #{ended := false}) -> Stream#{ended := {reset, Reason}};
        (Stream) -> Stream
    end),
    ok;
http2_frame({goaway, _, _, _}, Socket) ->
    put_state(Socket, (state(Socket))#{goaway := true}),
    ok;
http2_frame(_, _) ->
    ok.

give_window(Size, Id, Socket, #{reads := true}) when Size > 0 ->
    gen_tcp:send(Socket, [cow_http2:window_update(Size), cow_http2:window_update(Id, Size)]);
give_window(_, _, _, _) ->
    ok.

ended(fin) -> fin;
ended(nofin) -> false.
