%% SPDX-License-Identifier: Apache-2.0

%% @private Writes to a socket a part at a time.
%%
%% `send_timeout' is for all that is written at once: as many seconds for a body of megabytes as for a
%% few bytes would cut a client off that reads steadily. So it is for a part, however large a window,
%% a whole response or a WebSocket's message is.
-module(hornbeam_parts).

%% API
-export([send/3]).

-export_type([socket/0]).

-type socket() :: inet:socket() | ssl:sslsocket().

-define(PART_BYTES, 65536).
%% What comes beside a part, like the head of a response, is not worth a write of its own.
-define(MAX_PART_BYTES, 73728).

%% @doc Write all of it, in order, to a socket of that transport.
-spec send(Transport :: ranch_tcp | ranch_ssl, socket(), iodata()) -> ok | {error, any()}.
send(Transport, Socket, Data) ->
    case iolist_size(Data) =< ?MAX_PART_BYTES of
        %% Nearly always.
        true -> Transport:send(Socket, Data);
        false -> send_parts(Transport, Socket, parts(erlang:iolist_to_iovec(Data), ?PART_BYTES, []))
    end.

send_parts(_, _, []) ->
    ok;
send_parts(Transport, Socket, [Part | Parts]) ->
    case Transport:send(Socket, Part) of
        ok -> send_parts(Transport, Socket, Parts);
        {error, Reason} -> {error, Reason}
    end.

%% Each of them full, but the last. No byte is copied.
parts([], _, []) ->
    [];
parts([], _, Begun) ->
    [lists:reverse(Begun)];
parts([Binary | Rest], Room, Begun) when byte_size(Binary) < Room ->
    parts(Rest, Room - byte_size(Binary), [Binary | Begun]);
parts([Binary | Rest], Room, Begun) ->
    <<First:Room/binary, Left/binary>> = Binary,
    [lists:reverse(Begun, [First]) | parts([Left || Left =/= <<>>] ++ Rest, ?PART_BYTES, [])].
