%% SPDX-License-Identifier: Apache-2.0

%% @private Ends an HTTP/1 connection whose next request is overdue: with 408 where a part of its
%% head has come, in silence where nothing has.
%%
%% Which of the two it is only the connection's process knows: the count of bytes that a socket has
%% received includes the handshake of TLS, a PROXY header, and what came in one packet with the
%% request before. So it looks itself, between two messages, where no request can begin meanwhile.
-module(hornbeam_late_head).

%% API
-export([check/4]).

%% Its function throws, and is meant to.
-dialyzer({nowarn_function, look/4}).

-export_type([due/0]).

-type due() :: head | idle | both | size.
%% What is over: the time for the head of a request, the time for which a connection may be idle, or
%% what any head may take.

-type outcome() :: busy | wait | close.

%% As long as a connection may take to act on the request to finish.
-define(LOOK_TIMEOUT_MS, 5000).
%% How long a client may take to read the answer: it may still be sending.
-define(LINGER_MS, 1000).
%% Where Cowboy has the bytes that it could not parse yet. Tests that send half a request line
%% notice when that is another place.
-define(BUFFER, 8).

%% @doc Have a connection look, unless it has had a request after `Total' ones. Returns at once.
-spec check(hornbeam_connection:watched(), Total :: non_neg_integer(), due(),
            hornbeam_response:defaults()) -> ok.
check(Watched, Total, Due, Defaults) ->
    _ = spawn(fun() ->
        case look(Watched, Total, Due, Defaults) of
            close -> hornbeam_connection:finish(Watched);
            _ -> ok
        end
    end),
    ok.

%% The function is called by the connection. It throws what it has found instead of returning a
%% state, which would be copied to here.
-spec look(hornbeam_connection:watched(), non_neg_integer(), due(),
           hornbeam_response:defaults()) -> outcome().
look({Pid, _, _, _} = Watched, Total, Due, Defaults) ->
    Look = fun(State) -> throw(outcome(State, Watched, Total, Due, Defaults)) end,
    try sys:replace_state(Pid, Look, ?LOOK_TIMEOUT_MS) of
        _ -> busy
    catch
        _:{callback_failed, _, {throw, Outcome}} -> Outcome;
        %% It has ended, by itself or with the answer, or does something else.
        exit:_ -> busy
    end.

outcome(State, {_, _, _, Activity} = Watched, Total, Due, Defaults) ->
    case hornbeam_connection:activity(Activity) of
        {0, Total, _} when Due =:= size -> too_much(is_http2(State), Watched);
        {0, Total, _} -> decide(has_begun(State), Due, Watched, Defaults);
        _ -> busy
    end.

%% With HTTP/2 bytes are not those of one head alone, and Cowboy limits each kind. That it is spoken
%% was not known where no head has been complete yet.
too_much(true, {_, _, _, Activity}) ->
    ok = hornbeam_connection:is_http2(Activity),
    wait;
too_much(false, _) ->
    close.

decide(true, idle, {_, _, _, Activity}, _) ->
    ok = hornbeam_connection:head_began(Activity),
    wait;
decide(true, _, Watched, Defaults) ->
    answer(Watched, Defaults);
decide(false, head, _, _) ->
    wait;
decide(false, _, _, _) ->
    close.

%%% What has come

%% Of Cowboy's state, which says where its parser stands: in a request line, in headers, or in a
%% body that nobody wants, behind the response.
has_begun(State) ->
    case parser(State) of
        {ok, InState} -> has_begun(element(1, InState), element(?BUFFER, State));
        http2 -> false;
        none -> hornbeam_preface:has_begun(State) orelse hornbeam_http1:has_begun(State)
    end.

is_http2(State) ->
    parser(State) =:= http2.

parser(State) when tuple_size(State) > ?BUFFER ->
    case [Element || Element <- tuple_to_list(State), is_parser(Element)] of
        [InState] -> {ok, InState};
        _ -> none
    end;
parser({_State, Buffer}) when is_binary(Buffer) ->
    http2;
parser(_) ->
    none.

has_begun(ps_header, _) -> true;
has_begun(ps_request_line, Buffer) -> is_binary(Buffer) andalso Buffer =/= <<>>;
has_begun(ps_body, _) -> false.

is_parser(Element) when is_tuple(Element), tuple_size(Element) > 0 ->
    lists:member(element(1, Element), [ps_request_line, ps_header, ps_body]);
is_parser(_) ->
    false.

%%% The answer

-spec answer(hornbeam_connection:watched(), hornbeam_response:defaults()) -> no_return().
answer({_, Socket, Transport, _}, Defaults) ->
    Text = <<"the head of the request did not come in time">>,
    {response, Status, Headers, Body} = hornbeam_response:error(408, Text, Defaults),
    Lines = maps:to_list(Headers#{<<"connection">> => <<"close">>}),
    %% An error is one of the socket, which is closed anyway.
    _ = Transport:send(Socket, [cow_http:response(Status, 'HTTP/1.1', Lines), Body]),
    _ = Transport:setopts(Socket, [{active, false}]),
    %% With TLS that is all.
    _ = Transport:shutdown(Socket, write) =:= ok andalso
        linger(Socket, Transport, erlang:monotonic_time(millisecond) + ?LINGER_MS),
    hornbeam_connection:abandon().

%% A socket that is closed with bytes unread resets the connection, and the answer may be lost.
linger(Socket, Transport, DeadlineMs) ->
    LeftMs = max(0, DeadlineMs - erlang:monotonic_time(millisecond)),
    case Transport:recv(Socket, 0, LeftMs) of
        {ok, _} when LeftMs > 0 -> linger(Socket, Transport, DeadlineMs);
        _ -> ok
    end.
