%% SPDX-License-Identifier: Apache-2.0

%% @private The body of one request: what of it has come, what may come, and until when.
%%
%% What may come is a matter of {@link hornbeam_flow}. The client has `body_timeout' whenever
%% somebody waits for the body: the application, which has said so, or whoever gathers it. For what is
%% skipped behind the response it has that time in all, as nobody has an interest in its progress.
%% Parts that come before a worker has the request are held here; so is what a client sends behind
%% the handshake of a WebSocket.
%%
%% On HTTP/2 a body can be there by its length before the end of its stream is.
-module(hornbeam_request_body).

%% API
-export([new/2]).
-export([is_complete/1]).
-export([expects_continue/1]).
-export([initial_flow/2]).
-export([received/4]).
-export([hold/2]).
-export([early/2]).
-export([take/1]).
-export([give_back/2]).
-export([credit/3]).
-export([is_gathered/2]).
-export([ask/2]).
-export([waiting/4]).
-export([finish/3]).
-export([timed_out/3]).
-export([stop_clock/1]).
-export([close/1]).
-export([to_session/1]).

-export_type([body/0]).

-record(body, {
    is_complete :: boolean(),
    %% As Content-Length says; undefined for a chunked body.
    length :: non_neg_integer() | undefined,
    bytes = 0 :: non_neg_integer(),
    %% HTTP/2: the body is there by its length, the end of the stream is not.
    awaits_end = false :: boolean(),
    %% The client waits for 100 Continue (RFC 9110 10.1.1).
    expects_continue :: boolean(),
    %% Last first.
    held = [] :: [binary()],
    flow :: hornbeam_flow:flow(),
    %% Until when what is waited for must have come; undefined: nobody waits.
    deadline_ms :: integer() | undefined,
    %% Looks at the deadline, and at the next one if that is a later one: many parts come meanwhile,
    %% and a timer for each would cost more than the part. Its message is known by the name: one
    %% that fires while it is being cancelled is not taken for its successor.
    timer :: {Timer :: reference(), Name :: reference(), FiresMs :: integer()} | undefined
}).

-opaque body() :: #body{}.

%% Of a body that is gathered.
-define(MAX_GATHERED_BYTES, 65536).
%% A body that is worth larger reads: three of the usual size.
-define(LARGE_BYTES, 49152).
%% How long the end of a request's stream may come behind its body.
-define(END_MS, 1000).

-spec new(hornbeam_request:incoming(), hornbeam_request:request()) -> body().
new(Req = #{has_body := HasBody, body_length := Length}, Request) ->
    #body{
        is_complete = not HasBody,
        length = Length,
        expects_continue = HasBody andalso is_continue_expected(Req),
        flow = hornbeam_flow:new(window(Request))
    }.

is_continue_expected(#{version := 'HTTP/1.0'}) -> false;
is_continue_expected(#{headers := #{<<"expect">> := Expect}}) ->
    string:lowercase(Expect) =:= <<"100-continue">>;
is_continue_expected(_) -> false.

window(#{version := 'HTTP/2', server := #{window := Window}}) ->
    hornbeam_http2:stream_window(Window);
window(#{server := #{window := Window}}) ->
    Window.

-spec is_complete(body()) -> boolean().
is_complete(#body{is_complete = IsComplete}) ->
    IsComplete.

%% @doc Whether the client waits to be told to continue.
-spec expects_continue(body()) -> boolean().
expects_continue(#body{expects_continue = ExpectsContinue}) ->
    ExpectsContinue.

%% @doc HTTP/2: what the client may send anyway, so that Cowboy's count and ours are one.
-spec initial_flow(hornbeam_request:request(), body()) -> cowboy_stream:commands().
initial_flow(_, #body{is_complete = true}) -> [];
initial_flow(Request, _) -> [{flow, window(Request)}].

%%% What comes

%% @doc A part of the body, or the `end_of_stream' behind it.
-spec received(cowboy_stream:fin(), binary(), hornbeam_request:request(), body()) ->
    {part | end_of_stream | too_large, body()}.
received(IsFin, <<>>, _, Body = #body{awaits_end = true}) ->
    {end_of_stream, Body#body{awaits_end = IsFin =:= nofin}};
%% Where trailers follow, Cowboy does not tell of the end.
received(nofin, Data, Request, Body = #body{bytes = Bytes, length = Length})
        when Bytes + byte_size(Data) =:= Length ->
    received(fin, Data, Request, Body#body{awaits_end = true});
received(IsFin, Data, Request = #{server := #{max_body := MaxBody}}, Body0) ->
    #body{bytes = Bytes0, flow = Flow} = Body0,
    Bytes = Bytes0 + byte_size(Data),
    _ = IsFin =:= fin andalso hornbeam_flow:is_stopped(Flow) andalso resume(Request),
    Body = Body0#body{bytes = Bytes, is_complete = IsFin =:= fin, expects_continue = false,
                      flow = hornbeam_flow:received(byte_size(Data), Flow)},
    case Bytes > MaxBody of
        true -> {too_large, Body};
        false -> {part, Body}
    end.

resume(#{version := 'HTTP/2'}) -> ok;
resume(#{connection := Connection}) -> hornbeam_connection:resume(Connection).

%% @doc Keep a part until {@link take/1}.
-spec hold(binary(), body()) -> body().
hold(Data, Body = #body{held = Held}) ->
    Body#body{held = [Data | Held]}.

%% @doc Keep what comes behind a WebSocket's handshake, for its session.
-spec early(binary(), body()) -> body().
early(Data, Body = #body{held = Held, flow = Flow}) ->
    Body#body{held = [Data | Held], flow = hornbeam_flow:received(byte_size(Data), Flow)}.

%% @doc What a worker gets with the request, and whether there is more.
-spec take(body()) -> {Data :: binary(), More :: boolean(), body()}.
take(Body = #body{held = [], is_complete = IsComplete}) ->
    {<<>>, not IsComplete, Body};
take(Body = #body{held = Held, is_complete = IsComplete}) ->
    {iolist_to_binary(lists:reverse(Held)), not IsComplete, Body#body{held = []}}.

%% @doc A worker gives back what it got with the request: `lost' if that was not all of the body.
-spec give_back(Data :: binary(), body()) -> {ok, body()} | lost.
give_back(Data, Body = #body{is_complete = true, bytes = Bytes})
        when byte_size(Data) =:= Bytes ->
    {ok, Body#body{held = [Data || Data =/= <<>>]}};
give_back(_, _) ->
    lost.

%% @doc What a WebSocket goes on with: the count of what may come, and what has come, last first.
-spec to_session(body()) -> {hornbeam_flow:flow(), Early :: [binary()]}.
to_session(#body{flow = Flow, held = Early}) ->
    {Flow, Early}.

%%% What may come

%% @doc The application has taken so many bytes.
-spec credit(Bytes :: non_neg_integer(), hornbeam_request:request(), body()) ->
    {cowboy_stream:commands(), body()}.
credit(Bytes, Request, Body = #body{flow = Flow0}) ->
    ok = widen(Request, Body),
    {Commands, Flow} = hornbeam_flow:credit(Bytes, Flow0),
    {Commands, Body#body{flow = Flow}}.

%% A body takes many reads, and the application takes it: so it may with the next one.
widen(#{connection := Connection}, #body{length = Length})
        when is_integer(Length), Length >= ?LARGE_BYTES ->
    hornbeam_connection:widen(Connection);
widen(_, _) ->
    ok.

%% @doc Whether as much is there as is waited for before a worker is asked for. What may come unread
%% is a limit, too: for the rest the client would wait in vain.
-spec is_gathered(hornbeam_request:request(), body()) -> boolean().
is_gathered(Request, #body{is_complete = IsComplete, bytes = Bytes}) ->
    IsComplete orelse Bytes >= min(window(Request), ?MAX_GATHERED_BYTES).

%% @doc The body is waited for: the client is told to send, and has `body_timeout' to do so.
-spec ask(hornbeam_request:request(), body()) -> {cowboy_stream:commands(), body()}.
ask(Request, Body = #body{expects_continue = true}) ->
    {[{inform, 100, #{}}], start_clock(Request, Body#body{expects_continue = false})};
ask(Request, Body) ->
    {[], start_clock(Request, Body)}.

%% @doc The application waits, and had got so many bytes when it said so. After the head of the
%% final response it is too late to tell the client to send.
-spec waiting(Bytes :: non_neg_integer(), HasStarted :: boolean(), hornbeam_request:request(),
              body()) -> {cowboy_stream:commands(), body()}.
%% More was on its way to the worker.
waiting(Received, _, _, Body = #body{bytes = Bytes}) when Received =/= Bytes ->
    {[], Body};
waiting(_, _, _, Body = #body{is_complete = true}) ->
    {[], Body};
waiting(_, true, Request, Body = #body{expects_continue = true}) ->
    {[], start_clock(Request, Body)};
waiting(_, _, Request, Body) ->
    ask(Request, Body).

%%% The end

%% @doc The response has ended well. Gives how it goes on, and what ends the response's commands:
%% what is missing of the body is skipped, where the connection is to go on behind it, and has come by
%% the time for which the clock is set here.
-spec finish(Close :: boolean(), hornbeam_request:request(), body()) ->
    {over | skipping, cowboy_stream:commands(), body()}.
finish(_, Request, Body = #body{awaits_end = true}) ->
    %% Stopped now, the stream would be reset.
    {skipping, [], start_clock(?END_MS, Request, Body)};
finish(_, _, Body = #body{is_complete = true}) ->
    {over, [stop], Body};
finish(Close, Request = #{server := #{max_skipped := MaxSkipped}}, Body = #body{flow = Flow}) ->
    case not Close andalso may_skip(Request, Body) of
        true ->
            %% Not left to Cowboy, which does not look at what it has read behind the body.
            {skipping, [{flow, MaxSkipped}], start_clock(Request, Body)};
        false ->
            %% Where Cowboy waits for credit it would not see the client leave.
            {over, hornbeam_flow:resume(Flow) ++ [stop], Body}
    end.

may_skip(#{version := 'HTTP/2'}, _) -> false;
may_skip(_, #body{expects_continue = true}) -> false;
may_skip(#{server := #{max_skipped := MaxSkipped}}, #body{length = Length, bytes = Bytes}) ->
    is_integer(Length) andalso Length - Bytes =< MaxSkipped.

%%% Time

%% @doc The timer of that name has fired: `missing' is the body or only the end of its stream.
-spec timed_out(Name :: reference(), hornbeam_request:request(), body()) ->
    {Missing :: part | end_of_stream | nothing, body()} | stale.
timed_out(Name, Request, Body = #body{timer = {_, Name, _}, deadline_ms = DeadlineMs}) ->
    Fired = Body#body{timer = undefined},
    case DeadlineMs =:= undefined orelse DeadlineMs - erlang:monotonic_time(millisecond) of
        true ->
            {nothing, Fired};
        LeftMs when LeftMs > 0 ->
            {nothing, Fired#body{timer = new_timer(LeftMs, DeadlineMs, Request)}};
        _ ->
            {missing(Body), Fired#body{deadline_ms = undefined}}
    end;
timed_out(_, _, _) ->
    stale.

missing(#body{awaits_end = true}) -> end_of_stream;
missing(_) -> part.

%% @doc Nobody waits any more.
-spec stop_clock(body()) -> body().
stop_clock(Body) ->
    Body#body{deadline_ms = undefined}.

%% @doc The stream has ended.
-spec close(body()) -> ok.
close(#body{timer = undefined}) ->
    ok;
close(#body{timer = {Timer, _, _}}) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    ok.

start_clock(#{server := #{body_timeout := infinity}}, Body) ->
    Body;
start_clock(Request = #{server := #{body_timeout := TimeoutMs}}, Body) ->
    start_clock(TimeoutMs, Request, Body).

start_clock(TimeoutMs, Request, Body = #body{timer = Timer}) ->
    DeadlineMs = erlang:monotonic_time(millisecond) + TimeoutMs,
    case Timer of
        {_, _, FiresMs} when FiresMs =< DeadlineMs ->
            Body#body{deadline_ms = DeadlineMs};
        _ ->
            ok = close(Body),
            Body#body{deadline_ms = DeadlineMs, timer = new_timer(TimeoutMs, DeadlineMs, Request)}
    end.

new_timer(TimeoutMs, FiresMs, Request) ->
    Name = make_ref(),
    {hornbeam_request:tell_after(TimeoutMs, {body_timeout, Name}, Request), Name, FiresMs}.
