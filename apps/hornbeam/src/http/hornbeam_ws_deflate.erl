%% SPDX-License-Identifier: Apache-2.0

%% @private The extension permessage-deflate (RFC 7692), the server's side.
%%
%% Pure but for zlib's contexts. They are made when the first compressed message comes or goes, and
%% belong to the process that this happens in: most sockets of a chat only listen, and those that
%% never compress cost nothing.
%%
%% What a context takes is ours to choose. zlib's own defaults (window 2^15, memory level 8) are
%% 270 KB to compress and 40 KB to decompress. A window of 2^12 with memory level 5 takes 39 KB and
%% 12 KB, and on JSON messages of 100 bytes to 60 KB the result is within 20 % of the defaults.
%% Level 4 is the lowest that looks for matches lazily: level 6 takes twice its time on large
%% messages for a tenth less of bytes, level 9 still more.
-module(hornbeam_ws_deflate).

%% API
-export([negotiate/1]).
-export([compress/2]).
-export([decompress/3]).
-export([end_message/2]).
-export([stop_decompressing/1]).
-export([close/1]).

-export_type([deflate/0]).
-export_type([params/0]).

-type params() :: [binary() | {binary(), binary()}].
%% Of one offer in `Sec-WebSocket-Extensions', as cow_http_hd parses it.

-define(MAX_WINDOW_BITS, 12).
-define(MEMORY_LEVEL, 5).
-define(LEVEL, 4).

%% RFC 7692 7.2.1: what ends each flush, left out on the wire.
-define(TAIL, <<0, 0, 255, 255>>).

-record(deflate, {
    %% Towards the client: window, whether messages refer to earlier ones, the context.
    server_bits :: 8..?MAX_WINDOW_BITS,
    server_takeover :: boolean(),
    deflater = none :: zlib:zstream() | none,
    %% From the client.
    client_bits :: 8..15,
    client_takeover :: boolean(),
    inflater = none :: zlib:zstream() | none
}).

-opaque deflate() :: #deflate{}.

%% @doc Answer an offer: the element of `Sec-WebSocket-Extensions' and what it stands for. An offer
%% that RFC 7692 does not allow is declined, and so is one that says what we do not know.
-spec negotiate(params()) -> {ok, binary(), deflate()} | decline.
negotiate(Params) ->
    Names = lists:sort([name(Param) || Param <- Params]),
    case Names =:= lists:usort(Names) andalso lists:all(fun is_param/1, Params) of
        true -> accept(Params);
        false -> decline
    end.

name({Name, _}) -> Name;
name(Name) -> Name.

is_param(<<"server_no_context_takeover">>) -> true;
is_param(<<"client_no_context_takeover">>) -> true;
is_param(<<"client_max_window_bits">>) -> true;
is_param({<<"client_max_window_bits">>, Bits}) -> is_bits(Bits);
is_param({<<"server_max_window_bits">>, Bits}) -> is_bits(Bits);
is_param(_) -> false.

is_bits(<<C>>) -> C =:= $8 orelse C =:= $9;
is_bits(<<$1, C>>) -> C >= $0 andalso C =< $5;
is_bits(_) -> false.

accept(Params) ->
    ServerBits = bits(<<"server_max_window_bits">>, Params),
    ServerTakeover = not lists:member(<<"server_no_context_takeover">>, Params),
    ClientTakeover = not lists:member(<<"client_no_context_takeover">>, Params),
    ClientBits = client_bits(Params),
    Response = [
        <<"permessage-deflate; server_max_window_bits=">>, integer_to_binary(ServerBits),
        [<<"; server_no_context_takeover">> || not ServerTakeover],
        [<<"; client_no_context_takeover">> || not ClientTakeover],
        [[<<"; client_max_window_bits=">>, integer_to_binary(ClientBits)] || ClientBits < 15]
    ],
    {ok, iolist_to_binary(Response), #deflate{
        server_bits = ServerBits,
        server_takeover = ServerTakeover,
        client_bits = ClientBits,
        client_takeover = ClientTakeover
    }}.

%% RFC 7692 7.1.2.2: a client that did not say that it can be limited is not.
client_bits(Params) ->
    Name = <<"client_max_window_bits">>,
    case lists:member(Name, Params) orelse lists:keymember(Name, 1, Params) of
        true -> bits(Name, Params);
        false -> 15
    end.

bits(Name, Params) ->
    case lists:keyfind(Name, 1, Params) of
        {_, Bits} -> min(binary_to_integer(Bits), ?MAX_WINDOW_BITS);
        false -> ?MAX_WINDOW_BITS
    end.

%% @doc The payload of a message's frame. The message has to have at least one byte.
-spec compress(iodata(), deflate()) -> {binary(), deflate()}.
compress(Message, Deflate0) ->
    Deflate = #deflate{deflater = Deflater} = with_deflater(Deflate0),
    Flushed = iolist_to_binary(zlib:deflate(Deflater, Message, sync)),
    ok = case Deflate#deflate.server_takeover of
        true -> ok;
        false -> zlib:deflateReset(Deflater)
    end,
    {binary:part(Flushed, 0, byte_size(Flushed) - byte_size(?TAIL)), Deflate}.

%% @doc Take a part of a message's payload: what it gives, and how many bytes that is. Gives up
%% where that is more than `MaxBytes', and has then held one of zlib's buffers (16 KiB) beyond it.
%% After an error there is nothing to do but to stop.
-spec decompress(binary(), MaxBytes, deflate()) ->
    {ok, [binary()], non_neg_integer(), deflate()} | {error, too_large | corrupt, deflate()}
    when MaxBytes :: integer() | infinity.
decompress(Part, MaxBytes, Deflate0) ->
    Deflate = #deflate{inflater = Inflater} = with_inflater(Deflate0),
    try inflate(zlib:safeInflate(Inflater, Part), Inflater, MaxBytes, 0, []) of
        {ok, Parts, Bytes} -> {ok, Parts, Bytes, Deflate};
        too_large -> {error, too_large, Deflate}
    catch
        error:data_error -> {error, corrupt, Deflate}
    end.

%% @doc The same for the end of a message.
-spec end_message(MaxBytes, deflate()) ->
    {ok, [binary()], non_neg_integer(), deflate()} | {error, too_large | corrupt, deflate()}
    when MaxBytes :: integer() | infinity.
end_message(MaxBytes, Deflate0) ->
    case decompress(?TAIL, MaxBytes, Deflate0) of
        {ok, Parts, Bytes, Deflate = #deflate{client_takeover = false, inflater = Inflater}} ->
            ok = zlib:inflateReset(Inflater),
            {ok, Parts, Bytes, Deflate};
        Result ->
            Result
    end.

inflate({Progress, Output}, Inflater, MaxBytes, Bytes0, Parts0) ->
    %% An atom is more than any number.
    case Bytes0 + iolist_size(Output) of
        Bytes when Bytes > MaxBytes ->
            too_large;
        Bytes ->
            Parts = lists:reverse(Output, Parts0),
            case Progress of
                finished ->
                    {ok, lists:reverse(Parts), Bytes};
                continue ->
                    inflate(zlib:safeInflate(Inflater, []), Inflater, MaxBytes, Bytes, Parts)
            end
    end.

%% @doc Free what only incoming messages need.
-spec stop_decompressing(deflate()) -> deflate().
stop_decompressing(Deflate = #deflate{inflater = none}) ->
    Deflate;
stop_decompressing(Deflate = #deflate{inflater = Inflater}) ->
    ok = zlib:close(Inflater),
    Deflate#deflate{inflater = none}.

%% @doc Free both contexts; the process that they belong to has to do it, or to end.
-spec close(deflate()) -> ok.
close(Deflate) ->
    #deflate{deflater = Deflater} = stop_decompressing(Deflate),
    case Deflater of
        none -> ok;
        _ -> zlib:close(Deflater)
    end.

with_deflater(Deflate = #deflate{deflater = none, server_bits = Bits}) ->
    Deflater = zlib:open(),
    %% zlib refuses a window of 2^8. Its matches reach back by 262 bytes less than the window, so
    %% those of 2^9 are within 2^8. A negative number: without zlib's header.
    ok = zlib:deflateInit(Deflater, ?LEVEL, deflated, -max(Bits, 9), ?MEMORY_LEVEL, default),
    Deflate#deflate{deflater = Deflater};
with_deflater(Deflate) ->
    Deflate.

with_inflater(Deflate = #deflate{inflater = none, client_bits = Bits}) ->
    Inflater = zlib:open(),
    %% RFC 7692 7.2.3.4: a peer may end a message's last block as the last of all; the next block
    %% begins anew.
    ok = zlib:inflateInit(Inflater, -Bits, reset),
    Deflate#deflate{inflater = Inflater};
with_inflater(Deflate) ->
    Deflate.
